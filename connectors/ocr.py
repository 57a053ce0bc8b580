"""Text in pictures: where something is written, found by RapidOCR on this machine, from models inside its wheel.

What was read stays in this process: `TextBox.text` is for deciding whether a word may stay, never for a log or a file.
"""

import importlib.metadata
import importlib.util
import logging
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from medloom.schemas.errors import ConfigError

SHORTEST_SIDE_PX = 512  # smaller pictures are enlarged to it: letters of 8 px are not found otherwise
LONGEST_SIDE_PX = 2560  # larger ones are shrunk to it: time grows with the area (0.4 s a megapixel), memory too
MARGIN_PX = 24  # added on every side, since words that touch the edge are missed
LONGEST_RATIO = 4  # of the sides: the detector brings the shorter one to 736 px, and memory grows with the longer
MIN_READ = 0.3  # confidence of the reader below which a box is taken for anatomy and not for text
ENGINES = ("rapidocr", "onnxruntime")
_MODELS = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}


@dataclass(frozen=True)
class TextBox:
    """A place where something is written.

    Attributes:
        box: half-open pixel indices (y0, x0, y1, x1) of the picture.
        confidence: of the reading, 0 to 1.
        text: what was read; it may name a person.
    """

    box: tuple[int, int, int, int]
    confidence: float
    text: str = field(repr=False)


def engine() -> str:
    """Return the names and versions of what finds text, which decide its boxes ("rapidocr 3.10.0, …").

    Raises:
        ConfigError: it is not installed, or its wheel holds other models.
    """
    try:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in ENGINES]
        folder = _models()
    except (ImportError, importlib.metadata.PackageNotFoundError) as fault:
        raise ConfigError(
            "to find text in pictures needs RapidOCR, which is not installed: pip install 'medloom[deid]', or take the "
            "pictures as they are with burned_in=off"
        ) from fault
    lacking = [name for name in _MODELS.values() if not (folder / name).is_file()]
    if lacking:
        raise ConfigError(f"{versions[0]} does not bundle {' and '.join(lacking)}: pip install 'rapidocr==3.10.0'")
    return ", ".join(versions)


def text_boxes(pixels_YXC: np.ndarray) -> list[TextBox]:
    """Return where something is written in a picture, from top to bottom.

    Args:
        pixels_YXC: uint8 with 1, 3 or 4 channels; alpha is looked at as a picture of its own where it varies.

    Raises:
        ConfigError: as `engine`.
    """
    views = [pixels_YXC[:, :, :3]]
    if pixels_YXC.shape[2] == 4 and np.ptp(pixels_YXC[:, :, 3]):
        views.append(pixels_YXC[:, :, 3:])
    return sorted((box for view in views for box in _boxes_in(view)), key=lambda found: found.box)


def _boxes_in(pixels_YXC: np.ndarray) -> list[TextBox]:
    height, width = pixels_YXC.shape[:2]
    prepared, scale = _prepared(pixels_YXC)
    read = _reader()(prepared)
    if read.boxes is None or read.txts is None:
        return []
    made = []
    for corners, text, confidence in zip(read.boxes, read.txts, read.scores, strict=True):
        (x0, y0), (x1, y1) = (
            (np.asarray(corners, np.float64).min(axis=0) - MARGIN_PX) / scale,
            (np.asarray(corners, np.float64).max(axis=0) - MARGIN_PX) / scale,
        )
        y0, y1 = np.clip((np.floor(y0), np.ceil(y1)), 0, height).astype(int).tolist()
        x0, x1 = np.clip((np.floor(x0), np.ceil(x1)), 0, width).astype(int).tolist()
        if y1 > y0 and x1 > x0:
            made.append(TextBox((y0, x0, y1, x1), round(float(confidence), 3), str(text)))
    return made


def _prepared(pixels_YXC: np.ndarray) -> tuple[np.ndarray, float]:
    """Return BGR at the size the detector wants, with a margin, and by how much the picture was enlarged."""
    from PIL import Image

    height, width = pixels_YXC.shape[:2]
    scale = min(max(SHORTEST_SIDE_PX / min(height, width), 1), LONGEST_SIDE_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    colour = pixels_YXC if pixels_YXC.shape[2] == 3 else pixels_YXC.repeat(3, axis=2)
    image = Image.fromarray(np.ascontiguousarray(colour))
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    scaled = np.asarray(image)
    shortest = max(scaled.shape[:2]) // LONGEST_RATIO
    more_y, more_x = (max(0, shortest - side) for side in scaled.shape[:2])
    ground = np.median(scaled[:: max(1, scaled.shape[0] // 64), :: max(1, scaled.shape[1] // 64)], axis=(0, 1))
    made = np.empty((scaled.shape[0] + more_y + 2 * MARGIN_PX, scaled.shape[1] + more_x + 2 * MARGIN_PX, 3), np.uint8)
    made[...] = ground
    made[MARGIN_PX : MARGIN_PX + scaled.shape[0], MARGIN_PX : MARGIN_PX + scaled.shape[1]] = scaled
    return np.ascontiguousarray(made[:, :, ::-1]), scale


def _models() -> Path:
    """Return the folder of the bundled models, without importing the library."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or not found.origin:
        raise ImportError("rapidocr")
    return Path(found.origin).parent / "models"


@cache
def _reader() -> Any:
    """Return the one reader of this process: one thread, bundled models by path (so that nothing is fetched), mute."""
    engine()
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").handlers.clear()  # it writes paths and warnings to stderr by a handler of its own
    logging.getLogger("RapidOCR").addHandler(logging.NullHandler())
    models = {f"{step}.model_path": str(_models() / name) for step, name in _MODELS.items()}
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    plain = {"Global.use_cls": False, "Global.use_preprocess_img": False, "Global.use_vertical_padding": False}
    return RapidOCR(
        params={**models, **threads, **plain, "Global.log_level": "critical", "Global.text_score": MIN_READ}
    )
