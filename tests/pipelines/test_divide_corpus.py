"""Real figures: boxes measured by hand on the pictures, letters from the captions of their articles."""

import os
from pathlib import Path

import pytest
from tests.pipelines.compounds import iou

from medloom.connectors.images import read_picture
from medloom.connectors.jats import parse_article
from medloom.pipelines.stages.divide import Divide
from medloom.schemas.medium import Medium
from medloom.schemas.origin import Origin

ORIGIN = Origin("papers", "id", "", "CC-BY-4.0", "declared", "cc-by-4.0", "", "0" * 64)

# By article, label and file: letter -> (y0, x0, y1, x1) in pixels of the stored picture, read off by eye to about 5.
GOLD: dict[tuple[str, str, str], dict[str, tuple[int, int, int, int]]] = {
    ("1414-431X2021e11439", "Figure 1", "1414-431X-bjmbr-54-10-e11439-gf001.jpg"): {
        "A": (0, 4, 907, 340), "B": (10, 362, 472, 894), "C": (503, 508, 851, 723),
    },
    ("1414-431X2021e11439", "Figure 2", "1414-431X-bjmbr-54-10-e11439-gf002.jpg"): {
        "A": (2, 1, 283, 245), "B": (2, 290, 310, 598),
    },
    ("pone.0038869", "Figure 1", "pone.0038869.g001.tif"): {
        "left": (20, 15, 2955, 1445), "right": (60, 1556, 2955, 2950),
    },
    ("pone.0038869", "Figure 2", "pone.0038869.g002.tif"): {},
    ("pone.0060593", "Figure 1", "pone.0060593.g001.tif"): {
        "A": (10, 12, 372, 1201), "B": (10, 1430, 372, 2620), "C": (423, 10, 963, 1203), "D": (423, 1430, 963, 2620),
    },
    ("pone.0060593", "Figure 1", "pone.0060593.g001.PNG_L.png"): {
        "A": (10, 12, 372, 1201), "B": (10, 1430, 372, 2620), "C": (423, 10, 963, 1203), "D": (423, 1430, 963, 2620),
    },
    ("pone.0060593", "Figure 2", "pone.0060593.g002.tif"): {
        "A": (10, 10, 609, 955), "B": (10, 1129, 609, 2074),
    },
}  # fmt: skip


def corpus() -> Path:
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not folder:
        pytest.skip("MEDLOOM_TEST_CORPUS does not name the folder with the real figures")
    return Path(folder) / "pmc"


@pytest.mark.parametrize("where", GOLD, ids=lambda where: where[2])
def test_panels_of_a_real_figure_are_where_a_reader_sees_them(where):
    article, label, name = where
    rows = parse_article((corpus() / "xml" / f"{article}.xml").read_bytes(), source="test")["figure"]
    figure = next(row for row in rows if row["label"] == label)
    medium = Medium(
        key="k", unit="u", group="g", origin=ORIGIN, modality="figure", text=figure["caption"],
        content=read_picture((corpus() / "images" / article / name).read_bytes()),
        declared=tuple(dict.fromkeys(panel["letter"] for panel in figure["panels"])),
    )  # fmt: skip
    (divided,) = Divide()(medium)
    told = {panel.letter: panel.box for panel in divided.panels}
    assert told.keys() == GOLD[where].keys()
    assert all(iou(box, GOLD[where][letter]) >= 0.9 for letter, box in told.items()), told
