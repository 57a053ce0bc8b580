"""Panels are found where they were drawn, named as they were lettered, and a figure that is not sure stays whole."""

import io
import pickle
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from tests.pipelines.compounds import KINDS, SINGLES, Compound, compound, photograph, scored, single

from medloom.connectors.images import encode_png, read_picture
from medloom.pipelines.carried import call, carry
from medloom.pipelines.stages.divide import MOST_PANELS, Divide, divide, overlap
from medloom.pipelines.stages.encode import encode
from medloom.pipelines.stages.ink import Box
from medloom.pipelines.stages.layout import MAX_DEPTH, MAX_NODES, Cutter
from medloom.schemas.keys import fingerprint
from medloom.schemas.medium import Medium, PanelBox
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Volume

pytest.importorskip("matplotlib", reason="the synthetic charts are drawn by it (extra train)")
ORIGIN = Origin("papers", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)
SEEDS = range(7000, 7008)


def _medium(content, text: str = "", declared: tuple[str, ...] = ()) -> Medium:
    return Medium(
        key="k", unit="u", group="g", origin=ORIGIN, content=content, modality="figure", text=text, declared=declared
    )


def _divided(figure: Compound) -> tuple[PanelBox, ...]:
    panels = divide(figure.pixels_YXC, figure.letters)
    return panels if min((p.confidence for p in panels), default=0) >= Divide().threshold else ()


@pytest.mark.slow
def test_panels_of_synthetic_compounds_are_found_and_named():
    score = scored([(f, _divided(f)) for kind in KINDS for f in (compound(seed, kind) for seed in SEEDS)])
    assert score.precision >= 0.97, score
    assert score.recall >= 0.85, score
    assert score.exact >= 0.85, score


@pytest.mark.parametrize("kind", SINGLES)
def test_one_picture_is_left_whole(kind):
    for seed in SEEDS:
        assert _divided(single(seed, kind)) == (), seed


@pytest.mark.parametrize("kind", ["photograph", "bordered photograph", "line chart", "bar chart", "scan"])
def test_one_picture_whose_caption_declares_letters_is_left_whole(kind):
    """As where letters name the arrows in a picture."""
    for seed in SEEDS:
        pixels_YXC = single(seed, kind).pixels_YXC
        assert min((p.confidence for p in divide(pixels_YXC, ("A", "B", "C", "D"))), default=0) < Divide().threshold


def _sheet(height: int, width: int, *boxes: Box, sheet: int | tuple[int, ...] = 255, seed: int = 0) -> np.ndarray:
    """Photographs in `boxes` on a sheet."""
    rng = np.random.default_rng(seed)
    pixels_YXC = np.full((height, width, 3), sheet, np.uint8)
    for y0, x0, y1, x1 in boxes:
        pixels_YXC[y0:y1, x0:x1] = np.asarray(photograph(rng, y1 - y0, x1 - x0))
    return pixels_YXC


GRID: tuple[Box, ...] = ((10, 10, 200, 290), (10, 310, 200, 590), (220, 10, 390, 290), (220, 310, 390, 590))


def test_boxes_of_photographs_are_exact_and_read_by_rows():
    panels = divide(_sheet(400, 600, *GRID), ("A", "B", "C", "D"))
    assert [p.letter for p in panels] == ["A", "B", "C", "D"]
    assert [p.box for p in panels] == list(GRID)


def test_a_panel_beside_a_column_of_two_is_the_first():
    boxes = ((10, 10, 390, 290), *GRID[1::2])
    panels = divide(_sheet(400, 600, *boxes), ("A", "B", "C"))
    assert {p.letter: p.box for p in panels} == dict(zip("ABC", boxes, strict=True))


@pytest.mark.parametrize(
    ("words", "first"), [(("left", "right"), (10, 10, 390, 290)), (("top", "bottom"), (10, 10, 200, 590))]
)
def test_words_of_place_part_along_their_axis(words, first):
    panels = divide(_sheet(400, 600, *GRID), words)
    assert [p.letter for p in panels] == list(words)
    assert panels[0].box == first


def test_letters_that_stand_in_another_order_than_panels_are_read_are_believed():
    pixels_YXC = _lettered(_sheet(400, 600, *GRID), zip("ACBD", GRID, strict=True))
    panels = divide(pixels_YXC, ("A", "B", "C", "D"))
    assert {p.letter: p.box for p in panels} == dict(zip("ACBD", GRID, strict=True))


def _lettered(pixels_YXC: np.ndarray, letters) -> np.ndarray:
    from PIL import ImageDraw, ImageFont

    image = Image.fromarray(pixels_YXC)
    pen = ImageDraw.Draw(image)
    for letter, (y0, x0, _, _) in letters:
        pen.rectangle((x0, y0, x0 + 34, y0 + 34), fill="white")
        pen.text((x0 + 17, y0 + 17), letter, fill="black", font=ImageFont.load_default(28), anchor="mm")
    return np.asarray(image)


def test_letters_that_were_read_make_the_layout_surer():
    plain = _sheet(400, 600, *GRID)
    unread = divide(plain, ("A", "B", "C", "D"))
    read = divide(_lettered(plain, zip("ABCD", GRID, strict=True)), ("A", "B", "C", "D"))
    assert min(p.confidence for p in read) > max(p.confidence for p in unread)


def test_three_letters_over_six_pictures_name_pairs():
    boxes = [(10, x, 190, x + 140) for x in (10, 156, 330, 476, 650, 796)]
    lettered = _lettered(_sheet(200, 946, *boxes), zip("ABC", boxes[::2], strict=True))
    assert [p.box for p in divide(lettered, ("A", "B", "C"))] == [
        (10, 10, 190, 296), (10, 330, 190, 616), (10, 650, 190, 936),
    ]  # fmt: skip


def test_a_number_of_letters_that_the_layout_cannot_have_leaves_the_figure_whole():
    figure = _medium(encode_png(_sheet(400, 600, (10, 10, 390, 590))), declared=("A", "B", "C"))
    assert next(Divide()(figure)).panels == ()


def test_panels_that_touch_are_cut_along_their_edge_with_less_confidence():
    touching = ((0, 0, 400, 300), (0, 300, 400, 600))
    rng = np.random.default_rng(3)
    pixels_YXC = np.concatenate([np.asarray(photograph(rng, 400, 300)) for _ in touching], axis=1)
    panels = divide(pixels_YXC, ("A", "B"))
    assert [p.box for p in panels] == list(touching)
    apart = divide(_sheet(400, 600, (10, 10, 390, 290), (10, 310, 390, 590)), ("A", "B"))
    assert panels[0].confidence < apart[0].confidence


def test_scans_on_black_keep_their_margins():
    body = np.zeros((300, 600, 1), np.uint8)
    y, x = np.mgrid[0:300, 0:300]
    disc = (y - 150) ** 2 + (x - 150) ** 2 < 100**2
    body[:, :300][disc] = 150
    body[:, 300:][disc] = 90
    assert [p.box for p in divide(body, ("A", "B"))] == [(0, 0, 300, 300), (0, 300, 300, 600)]


@pytest.mark.parametrize("sheet", [255, 235, (180, 210, 240), 0])
def test_gutters_may_have_any_colour_and_jpeg_noise(sheet):
    file = io.BytesIO()
    Image.fromarray(_sheet(400, 600, *GRID, sheet=sheet)).save(file, "JPEG", quality=60)
    (medium,) = Divide()(_medium(read_picture(file.getvalue()), declared=("A", "B", "C", "D")))
    assert [p.letter for p in medium.panels] == ["A", "B", "C", "D"]
    assert all(overlap(p.box, box) > 0.9 for p, box in zip(medium.panels, GRID, strict=True))


def test_grey_and_alpha_have_the_panels_of_the_colours_they_show():
    colour = _sheet(400, 600, *GRID)
    alpha = np.concatenate([colour, np.full((400, 600, 1), 255, np.uint8)], axis=2)
    alpha[(colour == 255).all(axis=2)] = 0  # transparent gutters, black below
    names = ("A", "B", "C", "D")
    for pixels in (colour, colour[:, :, 0], alpha):
        (medium,) = Divide()(_medium(encode_png(pixels), declared=names))
        assert [p.box for p in medium.panels] == list(GRID)


def test_photographs_that_no_caption_declares_are_told_without_letters():
    (medium,) = Divide()(_medium(encode_png(_sheet(400, 600, *GRID)), "Four views."))
    assert [(p.letter, p.box) for p in medium.panels] == [("", box) for box in GRID]


def test_the_threshold_leaves_a_figure_whole_and_bytes_never_change():
    medium = _medium(encode_png(_sheet(400, 600, *GRID)), "(A) One. (B) Two. (C) Three. (D) Four.")
    (divided,) = Divide()(medium)
    sure = min(p.confidence for p in divided.panels)
    assert next(Divide(threshold=sure)(medium)).panels == divided.panels
    assert next(Divide(threshold=sure + 0.01)(medium)).panels == ()
    assert divided.content is medium.content
    row = encode(divided, split="train").columns["panels"]
    assert row == [{"letter": p.letter, "box": p.box, "confidence": p.confidence} for p in divided.panels]


def test_what_is_no_picture_passes_unchanged():
    medium = _medium(Volume(np.zeros((2, 3, 4), np.int16), np.eye(4)))
    assert next(Divide()(medium)) is medium


@dataclass(frozen=True)
class Halves:
    """A detector that finds two halves and something outside."""

    digest: str = "0" * 12

    def __call__(self, pixels_YXC: np.ndarray) -> Sequence[tuple[Box, float]]:
        height, width = pixels_YXC.shape[:2]
        return [((0, width // 2, height, width + 9), 0.9), ((0, 0, height, width // 2), 0.8), ((-5, -5, 0, 0), 0.7)]


def test_a_detector_finds_the_boxes_and_is_a_part_of_the_fingerprint():
    medium = _medium(encode_png(_sheet(100, 200, (0, 0, 100, 200))), "(A) One. (B) Two.")
    stage = carry((Divide(detector=Halves()), (medium,)))
    (divided,) = pickle.loads(pickle.dumps(list(call(stage))))
    assert [(p.letter, p.box, p.confidence) for p in divided.panels] == [
        ("A", (0, 0, 100, 100), 0.8), ("B", (0, 100, 100, 200), 0.9),
    ]  # fmt: skip
    prints = {fingerprint(Divide()), fingerprint(Divide(detector=Halves())), fingerprint(Divide(detector=Halves("1")))}
    assert len(prints) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_lie_in_the_figure_apart_and_the_same_every_time(kind):
    for seed in SEEDS:
        figure = compound(seed, kind)
        panels = divide(figure.pixels_YXC, figure.letters)
        assert panels == divide(figure.pixels_YXC, figure.letters)
        height, width = figure.pixels_YXC.shape[:2]
        for p in panels:
            y0, x0, y1, x1 = p.box
            assert 0 <= y0 < y1 <= height, (seed, p)
            assert 0 <= x0 < x1 <= width, (seed, p)
            assert 0 <= p.confidence <= 1
        assert len({p.letter for p in panels if p.letter}) == len([p for p in panels if p.letter])
        assert all(overlap(a.box, b.box) < 0.02 for i, a in enumerate(panels) for b in panels[:i]), seed


def _hostile(name: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if name == "one column":
        return np.zeros((4000, 1, 3), np.uint8)
    if name == "blank":
        return np.full((8000, 8000, 1), 255, np.uint8)
    if name == "noise":
        return rng.integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    if name == "specks":
        return np.where(rng.random((1200, 1200, 1)) < 0.002, 0, 255).astype(np.uint8)
    if name == "ribbon":
        return rng.integers(0, 256, (48, 100_000, 1), dtype=np.uint8)
    cells = [(y, x, y + 24, x + 44) for y in range(3, 1500, 30) for x in range(3, 2000, 50)]
    return _sheet(1500, 2000, *cells)


@pytest.mark.parametrize("name", ["one column", "blank", "noise", "specks", "ribbon", "2,000 cells"])
@pytest.mark.parametrize("letters", ["", "AB", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
def test_hostile_pictures_cost_bounded_work_and_memory(name, letters, monkeypatch):
    cutters = []
    monkeypatch.setattr(Cutter, "__init__", _noting(Cutter.__init__, cutters))
    pixels_YXC = _hostile(name)
    tracemalloc.start()
    panels = divide(pixels_YXC, tuple(letters))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert min((p.confidence for p in panels), default=0) < Divide().threshold
    assert peak < 64 * 2**20
    assert all(len(cutter._known) <= MAX_NODES + MAX_DEPTH * MOST_PANELS for cutter in cutters)


def _noting(made, seen: list):
    def init(self, *arguments, **named):
        made(self, *arguments, **named)
        seen.append(self)

    return init
