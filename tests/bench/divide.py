"""Panels of synthetic compound figures: precision, recall and time of dividing, beside decoding them.

`python -m tests.bench.divide [--json FILE] [--figures 60]`: a score per kind of figure, the share that is right by
confidence, milliseconds per figure on one core and the ratio to the time that decoding its JPEG takes (the limit).
Synthetic: the figures are drawn from seeds, and real ones differ (see tests/pipelines/test_divide_corpus.py).
"""

import argparse
import io
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from medloom.connectors.images import decode_picture, read_picture
from medloom.pipelines.stages.divide import Divide, divide
from medloom.pipelines.stages.ink import flat
from medloom.schemas.medium import PanelBox, Picture
from tests.pipelines.compounds import KINDS, SINGLES, Compound, compound, iou, scored, single

FIRST_SEED = 90_000  # far from the seeds of the tests


def encoded(figure: Compound) -> Picture:
    """A figure as a JPEG of quality 92."""
    file = io.BytesIO()
    Image.fromarray(figure.pixels_YXC).save(file, "JPEG", quality=92)
    return read_picture(file.getvalue())


def measured(figures: list[Compound]) -> tuple[list[tuple[Compound, tuple[PanelBox, ...]]], list[float], list[float]]:
    """The panels of each figure before any threshold, seconds to divide it, and to decode it, per megapixel."""
    told, dividing, decoding = [], [], []
    for figure in figures:
        picture = encoded(figure)
        megapixels = picture.height * picture.width / 1e6
        started = time.process_time()
        pixels_YXC = decode_picture(picture)
        decoded = time.process_time()
        panels = divide(flat(pixels_YXC), figure.letters)
        decoding.append((decoded - started) / megapixels)
        dividing.append((time.process_time() - decoded) / megapixels)
        told.append((figure, panels))
    return told, dividing, decoding


def kept(panels: tuple[PanelBox, ...]) -> tuple[PanelBox, ...]:
    """The panels when the stage's own threshold lets them pass, else none."""
    return panels if min((p.confidence for p in panels), default=0) >= Divide().threshold else ()


def row_of(kind: str, figures: list[Compound]) -> tuple[dict[str, Any], list[tuple[float, bool]]]:
    """A row of the table, and (confidence, whether all panels are right) of each divided figure."""
    told, dividing, decoding = measured(figures)
    score = scored([(figure, kept(panels)) for figure, panels in told])
    row = {
        "name": kind, "unit": "ms/MP", "median": round(1000 * statistics.median(dividing), 1),
        "spread": [round(1000 * min(dividing), 1), round(1000 * max(dividing), 1)],
        "ratio_to_limit": round(statistics.median(dividing) / statistics.median(decoding), 2),
        "precision": round(score.precision, 3), "recall": round(score.recall, 3), "exact": round(score.exact, 3),
        "left_whole": round(score.left_whole, 3), "figures": score.figures,
    }  # fmt: skip
    right = [
        (min(p.confidence for p in panels), all(
            p.letter in figure.letters and iou(p.box, figure.boxes[figure.letters.index(p.letter)]) >= 0.75
            for p in panels
        ))
        for figure, panels in told if panels
    ]  # fmt: skip
    return row, right


def main() -> None:
    """Print the tables, and keep them with `--json FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--figures", type=int, default=60, help="of each kind")
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.figures)
    divide(compound(0).pixels_YXC, ("A", "B"))  # the shapes of letters are drawn once per process
    rows, confidences = [], []
    for kind in KINDS:
        row, right = row_of(kind, [compound(seed, kind) for seed in seeds])
        rows.append(row)
        confidences += right
        print(
            f"{kind:12} precision {row['precision']:.3f}  recall {row['recall']:.3f}  exact {row['exact']:.3f}  "
            f"left whole {row['left_whole']:.3f}  {row['median']:5.1f} ms/MP = {row['ratio_to_limit']} × decoding"
        )
    for kind in SINGLES:
        told, dividing, _ = measured([single(seed, kind) for seed in seeds])
        whole = sum(not kept(panels) for _, panels in told)
        rows.append({
            "name": kind, "unit": "ms/MP", "median": round(1000 * statistics.median(dividing), 1),
            "left_whole": round(whole / len(told), 3), "figures": len(told),
        })  # fmt: skip
        print(f"{kind:20} one picture: left whole {whole} of {len(told)}")
    for low in np.arange(0.3, 1.0, 0.1):
        inside = [right for sure, right in confidences if low <= sure < low + 0.1]
        if inside:
            print(f"confidence {low:.1f}–{low + 0.1:.1f}: all panels right in {sum(inside)} of {len(inside)} figures")
    if options.json:
        machine = {
            "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
            "numpy": np.__version__, "pillow": PIL.__version__,
        }  # fmt: skip
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
