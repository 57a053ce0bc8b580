import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medloom.pipelines.inspect import inspect
from medloom.schemas.errors import SourceError
from medloom.schemas.raw import RawZone

ARTICLE = """<?xml version="1.0"?><article article-type="case-report"><front><article-meta>
<article-id pub-id-type="pmc">123</article-id><title-group><article-title>On it</article-title></title-group>
<permissions><license xmlns:xlink="http://www.w3.org/1999/xlink"
xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>CC BY</license-p></license></permissions>
</article-meta></front><body><sec><title>Case</title><p>Seen in <xref ref-type="fig" rid="f1">Figure 1</xref>.</p>
<fig id="f1"><label>Figure 1</label><caption><p>A mass.</p></caption>
<graphic xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="f1.jpg"/></fig></sec></body></article>"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "series").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        (folder / "series" / name).write_bytes(Path(get_testdata_file(name)).read_bytes())
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "figure.png")
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])  # RAS of NIfTI; in LPS x and y grow towards L and P
    volume = np.arange(20 * 24 * 28, dtype=np.int16).reshape(20, 24, 28)
    nibabel.save(nibabel.Nifti1Image(volume, affine), folder / "brain.nii.gz")
    (folder / "paper.xml").write_text(ARTICLE)
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("hello")
    (folder / "cut.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes()[:3000])
    (folder / "broken.nii.gz").write_bytes(gzip.compress(b"\x5c\x01\x00\x00" + b"\0" * 100))
    return folder


def test_a_mixed_folder_gives_a_row_for_each_thing_and_a_reason_for_each_refusal(mixed):
    rows = {row["file"].removeprefix(f"{mixed}/"): row for row in inspect(str(mixed))}
    assert set(rows) == {
        "series/CT_small.dcm", "series/MR_small.dcm", "figure.png", "brain.nii.gz", "paper.xml", "empty.dcm",
        "notes.txt", "cut.dcm", "broken.nii.gz",
    }  # fmt: skip
    ok = {name for name, row in rows.items() if row["verdict"].startswith("ok")}
    assert ok == {"series/CT_small.dcm", "series/MR_small.dcm", "figure.png", "brain.nii.gz", "paper.xml"}
    assert rows["empty.dcm"]["verdict"].startswith("source.empty_file")
    assert rows["notes.txt"]["verdict"].startswith("source.format")
    assert rows["figure.png"]["shape"] == [40, 60, 1]
    assert (rows["series/CT_small.dcm"]["modality"], rows["series/CT_small.dcm"]["shape"]) == ("CT", [1, 128, 128])
    assert "1 figures, cc-by, case report" in rows["paper.xml"]["verdict"]


def test_geometry_is_told_as_z_y_x(mixed):
    (row,) = inspect(str(mixed / "brain.nii.gz"))
    assert row["shape"] == [28, 24, 20]
    assert row["spacing_mm"] == [3.0, 2.0, 1.0]
    assert row["axes"] == "LPS"


def test_nothing_is_written_and_what_is_not_there_is_said(mixed, tmp_path):
    before = sorted(p.name for p in mixed.rglob("*"))
    inspect(str(mixed))
    assert sorted(p.name for p in mixed.rglob("*")) == before
    with pytest.raises(SourceError, match="no such file or folder"):
        inspect(str(tmp_path / "gone"))
    with pytest.raises(SourceError, match="holds no file"):
        inspect(str(tmp_path))


def test_objects_of_a_raw_zone_are_shown_by_their_names(tmp_path):
    zone = RawZone.at(str(tmp_path / "raw"))
    rows = [("PMC1.1/a.nxml", "article", ARTICLE.encode()), ("PMC1.1/x.jpg", "media", b"no picture")]
    zone.append([
        {"name": name, "article": "PMC1.1", "role": role, "outcome": "kept", "digest": zone.put(data)[0]}
        for name, role, data in rows
    ])  # fmt: skip
    shown = inspect(zone.url)
    assert [(row["file"], row["kind"]) for row in shown] == [("PMC1.1/a.nxml", "article"), ("PMC1.1/x.jpg", "")]
    assert shown[0]["verdict"].startswith("ok: 1 figures")
