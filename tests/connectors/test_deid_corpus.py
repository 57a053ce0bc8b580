"""De-identified scans of the corpus: none of their identifiers is left, and every series reads as before."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medloom.connectors.deid_file import Task, convert
from medloom.connectors.deid_known import Known
from medloom.connectors.deid_rules import profile
from medloom.connectors.dicom import read_series
from medloom.connectors.dicom_headers import quiet
from medloom.schemas.errors import Refused
from medloom.schemas.keys import Identity
from medloom.schemas.volume import Volume
from tests.connectors.test_deid_verify import identifiers, texts_of

CORPUS = os.environ.get("MEDLOOM_TEST_CORPUS", "")
pytestmark = [
    pytest.mark.skipif(not CORPUS, reason="needs MEDLOOM_TEST_CORPUS, the folder of the corpus"),
    pytest.mark.slow,
]


def read(paths: list[Path]) -> tuple[list[Any], list[str]]:
    """The stacks of a series and the reasons why others are refused."""
    try:
        series = read_series(paths)
    except Refused as refused:
        return [], [refused.reason]
    return [stack.content for stack in series.stacks], [reason for _, reason, _ in series.refused]


def test_scans_lose_their_identifiers_and_keep_their_voxels(tmp_path):
    reasons = set()
    pairs: dict[Path, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    n_searched = n_volumes = 0
    for number, path in enumerate(sorted((Path(CORPUS) / "imaging" / "dicom").rglob("*"))):
        if not path.is_file():
            continue
        folder = tmp_path / str(number)
        try:
            written = convert(
                Task(str(path), str(folder), Identity(b"k" * 32), profile("research"), Known(), pixels="keep")
            )
        except Refused as refused:
            reasons.add(refused.reason)
            continue
        with quiet():
            stands, moved = texts_of(pydicom.dcmread(folder / written.file, stop_before_pixels=True))
            theirs = identifiers(pydicom.dcmread(path, stop_before_pixels=True, force=True))
        assert not (theirs & stands) - moved, path.name
        n_searched += len(theirs)
        originals, outputs = pairs[path.parent]
        originals.append(path)
        outputs.append(folder / written.file)
    assert n_searched > 1000
    assert reasons == {"deid.no_pixels", "deid.pixels", "deid.truncated", "dicom.not_dicom"}  # one pads its pixels
    for folder, (originals, outputs) in pairs.items():
        if folder.name == "single":
            continue
        (before, why_before), (after, why_after) = read(originals), read(outputs)
        assert why_before == why_after, folder.name
        n_volumes += len(before)
        for content, same in zip(before, after, strict=True):
            if isinstance(content, Volume):
                np.testing.assert_array_equal(content.array, same.array)
                np.testing.assert_array_equal(content.affine, same.affine)
            else:
                assert content.data == same.data
    assert n_volumes > 20
