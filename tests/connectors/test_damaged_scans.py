"""Damaged scans of every format are read or refused, in time; no cut and no bit under a checksum is overlooked."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medloom.connectors.guard import Guard
from tests.bench.damage import CHECKED, Damage, Examiner, Subject, damage_of, made

FORMATS = {"dicom": 8, "seg": 1, "rtstruct": 1, "nifti": 1, "nifti.gz": 1, "nrrd raw": 1, "nrrd gzip": 1, "mha raw": 1,
           "mha zlib": 1, "mgz": 1, "mgh": 1, "png": 1, "jpg": 1, "zip": 1}  # fmt: skip
NUMBERS = st.tuples(*[st.integers(0, 65535)] * 5)


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Examiner, list[Subject]]]:
    with Guard() as guard:
        yield Examiner(guard, tmp_path_factory.mktemp("work")), made(tmp_path_factory.mktemp("made"))


def test_every_format_is_there_and_is_read_while_it_is_whole(examined):
    examiner, subjects = examined
    found = [subject.format for subject in subjects]
    assert {name: found.count(name) for name in set(found)} == FORMATS
    assert not [subject.name for subject in subjects if examiner.whole(subject).startswith(("refused", "bug"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_survived(examined, name):
    examiner, subjects = examined
    mine = [subject for subject in subjects if subject.format == name]

    @settings(
        deadline=None, derandomize=True, max_examples=400 + 200 * len(mine), suppress_health_check=list(HealthCheck)
    )
    @given(st.sampled_from(mine), NUMBERS)
    def survives(subject: Subject, numbers: tuple[int, ...]) -> None:
        assert examiner.broken_rule(subject, damage_of(numbers, subject)) == ""

    survives()


@pytest.mark.slow
def test_every_bit_of_the_end_of_a_checked_file_counts(examined, tmp_path):
    """The last four bytes are the size in gzip, the checksum in zlib and of a PNG's last chunk."""
    examiner, subjects = Examiner(examined[0].guard, tmp_path), examined[1]
    for subject in [subject for subject in subjects if subject.format in CHECKED and subject.format != "zip"]:
        for place in range(len(subject.data) - 4, len(subject.data)):
            for bit in range(8):
                assert examiner.broken_rule(subject, Damage(flips=((place, bit),))) == "", (subject.name, place, bit)
    read = {name: counts["read flipped"] for name, counts in examiner.counts.items()}
    assert set(read.values()) == {0}


def test_the_rules_notice_a_reader_that_overlooks_damage(examined, tmp_path):
    """A reader that fills what is missing with zeros, one that skips checksums, one with a bug."""
    examiner = Examiner(examined[0].guard, tmp_path)
    data = bytes(range(200))
    careless = Subject("x", "nifti", data, lambda guard, path: [Path(path).read_bytes().ljust(200, b"\0")])
    assert "cut to 100 of 200 bytes is read" in examiner.broken_rule(careless, Damage(cut=100))
    unchecked = Subject("y", "png", data, lambda guard, path: [Path(path).read_bytes()])
    assert "under a checksum" in examiner.broken_rule(unchecked, Damage(flips=((50, 1),)))
    buggy = Subject("z", "nifti", data, lambda guard, path: guard.call(int, path, timeout_s=20.0))
    assert examiner.broken_rule(buggy, Damage(cut=3)).startswith("bug")
