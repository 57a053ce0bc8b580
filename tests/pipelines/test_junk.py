"""A folder of junk: each file ends as one row with its reason, good ones beside it are built, junk alone exits 1."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests import sources

from medloom.pipelines import steps
from medloom.pipelines.sources.listing import list_objects, read_object
from medloom.pipelines.tables.known import read_links
from medloom.schemas.build import Build
from medloom.schemas.errors import GateError, Refused
from medloom.schemas.store import Store

SCANS = {  # what is wrong with each file of `write_junk`, as the reason of its row
    "empty.dcm": "source.empty_file", "truncated.dcm": "dicom.", "bomb.xml": "source.format",
    "escape.tar": "archive.path", "pixel.png": "image.too_small", "huge.png": "image.pixels",
    "random.bin": "source.format", "paper.pdf": "source.format", "._hidden.png": "source.hidden_file",
    "zero.nii": "nifti.corrupt", "bomb.nii.gz": "nifti.", "bomb.gz": "source.format",
    "broken.jpg": "image.", "text.nii.gz": "source.format", "open.xml": "source.format", "loop": "source.unreadable",
    "up": "source.unreadable",
}  # fmt: skip
PAPERS = SCANS | {
    "truncated.dcm": "source.format", "escape.tar": "source.format", "bomb.xml": "jats.",
    "zero.nii": "source.format", "bomb.nii.gz": "source.format",
    "open.xml": "jats.malformed", "pixel.png": "image.unreferenced", "huge.png": "image.unreferenced",
    "broken.jpg": "image.unreferenced",
}  # fmt: skip
OTHERS = {
    "scans": {"n": "image.too_small", "q": "source.format"},
    "papers": {"n": "image.unreferenced", "q": "source.format"},
}
GOOD = {"scans": {"volume": 3, "volume-seg": 1, "png": 1, "jpg": 1}, "papers": {"png": 4, "jpg": 3}}


def recipe(folder: Path, kind: str) -> str:
    papers, scans = (
        '(Papers("papers", source),)',
        '(Scans("scans", source, deidentify="off", terms_id="cc0-1.0", mask_suffix="_seg"),)',
    )
    return sources.write_recipe(folder / f"{kind}.py", sources=papers if kind == "papers" else scans)


def reasons_by_url(out: Path) -> dict[str, list[str]]:
    """What each file of the source came to: the reasons of its own refusal, or of those of its unit or one member."""
    refused: dict[str, list[str]] = {}
    for row in Build(str(out)).refusals():
        refused.setdefault(row["unit"], []).append(row["reason"])
    links = read_links(Store(str(out))).to_pylist()
    return {link["url"].partition("!/")[0]: refused.get(link["unit"], []) for link in links}


def expected_of(url: str, kind: str) -> str:
    known = PAPERS if kind == "papers" else SCANS
    return known.get(url) or OTHERS[kind][url[0]]


@pytest.mark.parametrize("kind", ["scans", "papers"])
def test_junk_beside_good_files_costs_only_itself(kind: str, tmp_path: Path):
    source = tmp_path / "source"
    if kind == "scans":
        sources.write_scans(source)
    else:
        sources.write_papers(source, 4)
    junk = sources.write_junk(source)
    manifest = sources.build(tmp_path / "out", recipe(tmp_path, kind), source)
    found = reasons_by_url(tmp_path / "out")
    assert set(found) == set(list_objects(str(source))["url"].to_pylist())
    assert {url: len(found[url]) for url in junk} == dict.fromkeys(junk, 1)
    wrong = {url: found[url] for url in junk if not found[url][0].startswith(expected_of(url, kind))}
    assert not wrong
    assert manifest["counts"]["media"] == GOOD[kind]
    assert steps.gate(sources.step(tmp_path / "out")).success
    assert not (tmp_path / "escaped.txt").exists()


@pytest.mark.parametrize("kind", ["scans", "papers"])
def test_only_junk_ends_and_fails_the_gate_with_a_reason(kind: str, tmp_path: Path):
    sources.write_junk(tmp_path / "source")
    manifest = sources.build(tmp_path / "out", recipe(tmp_path, kind), tmp_path / "source")
    assert manifest["counts"]["media"] == {}
    with pytest.raises(GateError, match=r"something was (kept|planned)") as fault:
        steps.gate(sources.step(tmp_path / "out"))
    assert fault.value.exit_status == 1
    assert sources.build(tmp_path / "out", recipe(tmp_path, kind), tmp_path / "source") == manifest


def test_what_may_not_be_read_is_listed_and_refused_without_its_path():
    with tempfile.TemporaryDirectory() as folder:
        source, was = Path(folder), os.geteuid()
        (source / "closed").mkdir()
        (source / "closed.png").write_bytes(sources.png(32, 32))
        source.chmod(0o755)
        for path in (source / "closed", source / "closed.png"):
            path.chmod(0)
        try:
            if was == 0:
                os.seteuid(65534)  # root may read everything
            assert list_objects(folder)["url"].to_pylist() == ["closed", "closed.png"]
            for url in ("closed", "closed.png"):
                with pytest.raises(Refused, match=r"^source\.unreadable: (?!.*closed)"):
                    read_object(folder, url)
        finally:
            os.seteuid(was)
            (source / "closed").chmod(0o700)


def test_names_that_are_not_utf8_and_pipes_are_listed_and_refused(tmp_path: Path):
    source = tmp_path / "source"
    sources.write_papers(source, 1)
    (source / os.fsdecode(b"caf\xe9.png")).write_bytes(sources.png(32, 32))
    os.mkfifo(source / "pipe")
    sources.build(tmp_path / "out", recipe(tmp_path, "scans"), source)
    found = reasons_by_url(tmp_path / "out")
    assert found["caf\\xe9.png"] == ["source.unreadable"]
    assert found["pipe"] == ["source.unreadable"]


def test_the_command_line_exits_1_on_junk_alone_and_says_why(tmp_path: Path):
    sources.write_junk(tmp_path / "source")
    out = tmp_path / "out"
    sources.build(out, recipe(tmp_path, "scans"), tmp_path / "source")
    command = [sys.executable, "-m", "medloom", "gate", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    told: list[Any] = [line for line in done.stderr.splitlines() if line.startswith("medloom:")]
    assert len(told) == 1
    assert "something was kept" in told[0] or "something was planned" in told[0]
