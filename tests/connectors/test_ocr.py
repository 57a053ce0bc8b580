"""Text is found where it was drawn, without a network, a word on the terminal or a second thread."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medloom.connectors import ocr
from medloom.connectors.ocr import TextBox, text_boxes
from medloom.schemas.errors import ConfigError

pytest.importorskip("rapidocr", reason="needs the extra medloom[deid]")

LINES = ("DOE^JANE", "1957-03-12", "MRN 00482913")


def tissue(height: int, width: int) -> np.ndarray:
    """Smooth blobs and noise, (Y, X) uint8 below 150: a synthetic ground that is not even."""
    rng = np.random.default_rng(7)
    blobs = Image.fromarray(rng.integers(0, 130, (height // 24 + 2, width // 24 + 2)).astype(np.uint8))
    smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(0, 20, (height, width)), 0, 149).astype(np.uint8)


def written(ground: np.ndarray, words: dict[tuple[int, int], str], size_px: int, level: int = 255) -> np.ndarray:
    """Draw words at (y, x) on a ground (Y, X)."""
    image = Image.fromarray(ground)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size_px)
    for (y, x), word in words.items():
        draw.text((x, y), word, font=font, fill=level)
    return np.asarray(image)


@pytest.mark.parametrize(("side_px", "size_px"), [(128, 12), (512, 10), (512, 20), (1100, 14)])
def test_what_is_written_is_found_where_it_stands(side_px, size_px):
    ground = tissue(side_px, side_px)
    places = {(y, 2): line for y, line in zip((1, side_px // 2, side_px - size_px - 6), LINES, strict=True)}
    picture = written(ground, places, size_px)
    found = text_boxes(picture[:, :, np.newaxis])
    ink, covered = picture.astype(int) - ground > 60, np.zeros(ground.shape, bool)
    for box in found:
        y0, x0, y1, x1 = box.box
        covered[y0:y1, x0:x1] = True
    assert {box.text.replace(" ", "") for box in found} >= {line.replace(" ", "") for line in LINES}
    assert (ink & covered).sum() > 0.97 * ink.sum()
    assert covered.mean() < 0.3


def test_nothing_is_found_where_nothing_is_written():
    assert [box for box in text_boxes(tissue(300, 400)[:, :, np.newaxis]) if len(box.text) > 1] == []


def test_words_under_a_transparent_cloak_and_in_the_cloak_are_found():
    words = written(np.zeros((80, 200), np.uint8), {(20, 10): "Peter Smith"}, 24)
    blank = np.zeros_like(words)
    hidden = np.stack([words, words, words, blank], axis=2)
    cut_out = np.stack([blank, blank, blank, words], axis=2)
    for pixels_YXC in (hidden, cut_out):
        assert any("Smith" in box.text for box in text_boxes(pixels_YXC))


@pytest.mark.parametrize("shape", [(16, 16, 1), (16, 6000, 3), (6000, 16, 1)])
def test_odd_shapes_are_searched_within_bounds(shape):
    prepared, _ = ocr._prepared(np.zeros(shape, np.uint8))
    assert max(prepared.shape) <= ocr.LONGEST_SIDE_PX + 2 * ocr.MARGIN_PX
    assert min(prepared.shape[:2]) * 5 > max(prepared.shape[:2])
    assert text_boxes(np.zeros(shape, np.uint8)) == []


def test_it_needs_no_network_says_nothing_and_takes_one_core(tmp_path):
    code = """
import socket, sys, time
import numpy
def refuse(*_): raise SystemExit("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from medloom.connectors.ocr import text_boxes
text_boxes(numpy.zeros((64, 64, 3), numpy.uint8))
noise = numpy.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=numpy.uint8)
wall, cpu = time.perf_counter(), time.process_time()
text_boxes(noise)
sys.exit("it took several cores" if time.process_time() - cpu > 1.3 * (time.perf_counter() - wall) else 0)
"""
    environment = {"PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_what_was_read_is_not_in_what_is_shown():
    assert "Smith" not in repr(TextBox((0, 0, 1, 1), 0.9, "Smith"))


def test_a_missing_reader_is_named_with_the_extra_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"medloom\[deid\].*burned_in=off"):
        ocr.engine()


def test_a_reader_with_other_models_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(ocr, "_models", lambda: tmp_path)
    with pytest.raises(ConfigError, match="does not bundle PP-OCR"):
        ocr.engine()
