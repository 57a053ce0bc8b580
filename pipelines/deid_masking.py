"""Covering text in the frames of DICOM objects that are handed on, looked at again until none is left."""

from typing import TYPE_CHECKING

import numpy as np

from medloom.connectors.dicom_headers import BROKEN, quiet, whole, word
from medloom.connectors.ocr import text_boxes
from medloom.pipelines.stages.burned_in import covered, writing
from medloom.schemas.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MOST_FRAMES = 32  # half a second each; a longer film is kept apart
_COLOURS = {"MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"}


def mask_text(dataset: "Dataset") -> bool:
    """Cover what is written in an object's frames, in place, and return whether none is left that a reader finds.

    Only pixels of 8 bits, without a palette, of at most `MOST_FRAMES` frames: of others nothing is changed. What was
    covered is stored uncompressed. Where the header says that text is there, and none is found, it is False.
    """
    with quiet():
        photometric = word(dataset, "PhotometricInterpretation").upper()
        n_frames = whole(dataset, "NumberOfFrames", 1) or 1
        if whole(dataset, "BitsAllocated") != 8 or photometric not in _COLOURS or n_frames > MOST_FRAMES:
            return False
        try:
            frames = _frames(dataset)
            clean = [_without_text(frame) for frame in frames]
        except (Refused, *BROKEN):  # it cannot be decoded, or text is left: the object is kept apart by the caller
            return False
        changed = any(count for _, count in clean)
        if not changed:
            return word(dataset, "BurnedInAnnotation").upper() != "YES"
        made = np.stack([frame for frame, _ in clean])
        stored = made[0] if n_frames == 1 else made
        is_colour = made.shape[-1] == 3
        dataset.set_pixel_data(stored if is_colour else stored[..., 0], "RGB" if is_colour else photometric, 8)
        return True


def _frames(dataset: "Dataset") -> np.ndarray:
    """Return the frames (N, Y, X, C), colours as RGB."""
    array = dataset.pixel_array
    channels = whole(dataset, "SamplesPerPixel", 1)
    return array.reshape(-1, *array.shape[-3:]) if channels == 3 else array.reshape(-1, *array.shape[-2:], 1)


def _without_text(frame_YXC: np.ndarray) -> tuple[np.ndarray, int]:
    found = writing(text_boxes(frame_YXC))
    return covered(frame_YXC, found) if found else (frame_YXC, 0)
