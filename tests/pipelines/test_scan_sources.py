"""A folder of everything: DICOM with SEG and RTSTRUCT, archives, NRRD, MetaImage; built, and looked at before."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.sr.codedict import codes
from tests.connectors.dicom_made import ct_series, grid_of, rtstruct_of, seg_of, segment

from medloom.connectors import anatomy
from medloom.pipelines import steps
from medloom.pipelines.inspect import inspect
from medloom.pipelines.progress import Bars
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.steps import Step, Where
from medloom.schemas.b2nd import decode
from medloom.schemas.build import Build
from medloom.schemas.volume import Label, Volume

SHAPE = (6, 20, 24)
MASK = np.zeros(SHAPE, np.uint8)
MASK[1:4, 5:12, 6:15] = 1
MASK[2:5, 14:18, 2:5] = 2


def image(array: np.ndarray, spacing_mm: tuple[float, float, float] = (2.0, 1.5, 1.0)) -> SimpleITK.Image:
    made = SimpleITK.GetImageFromArray(array)
    made.SetSpacing(spacing_mm[::-1])
    made.SetOrigin((-10.0, -20.0, 30.0))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    paths = ct_series(root / "ct", shape=SHAPE)
    labels = [segment(1, "Liver", codes.SCT.Liver), segment(2, "Spleen", codes.SCT.Spleen)]
    seg_of(paths, MASK, labels, path=root / "ct/seg.dcm")
    square = np.array([[5.5, 4.5], [14.5, 4.5], [14.5, 11.5], [5.5, 11.5]])
    rtstruct_of(paths, {"Liver": [(1.0, square), (2.0, square)]}, path=root / "rt.dcm")
    by_images = pydicom.dcmread(root / "rt.dcm")  # it names its images and no series, as some planning systems write
    (study,) = by_images.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    study.RTReferencedSeriesSequence[0].SeriesInstanceUID = ""
    by_images.save_as(root / "rt.dcm")
    lost = ct_series(root / "lost", uid="lost", shape=SHAPE)
    seg_of(lost, MASK, labels, path=root / "orphan.dcm")
    for path in lost:
        path.unlink()
    zipped = ct_series(root / "zipped", uid="zipped", shape=SHAPE, origin=(0.0, 0.0, 0.0))
    with zipfile.ZipFile(root / "case.zip", "w") as archive:
        for path in zipped:
            archive.write(path, f"inner/{path.name}")
            path.unlink()
    noise = np.random.default_rng(3).integers(-900, 900, SHAPE).astype(np.int16)
    SimpleITK.WriteImage(image(noise), str(root / "brain.nrrd"))
    SimpleITK.WriteImage(image(noise[::-1].copy()), str(root / "knee.mhd"))
    (root / "alone.raw").write_bytes(b"\0" * 100)
    (root / "notes.txt").write_text("nothing")
    return root


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory) -> Build:
    out = str(tmp_path_factory.mktemp("built") / "out")
    settings = {"source": str(folder), "deidentify": "off", "terms": "mit"}
    step = Step(out, Bars(quiet=True), Where("local[1]", "none"), settings)
    steps.tables(step, "scans")
    steps.media(step)
    return Build(out)


@pytest.mark.slow
def test_every_volume_stands_with_the_masks_that_are_about_it(built):
    counts = built.manifest()["counts"]
    assert counts["flow"]["in"] + counts["flow"]["made"] == counts["flow"]["out"] + counts["flow"]["refused"]
    assert counts["media"] == {"volume": 3, "volume-seg": 1}
    reasons = sorted(row["reason"] for row in built.refusals())
    assert reasons == ["seg.no_image", "source.format", "source.format"]


@pytest.mark.slow
def test_masks_of_seg_and_rtstruct_lie_on_the_voxels_they_were_drawn_on(built, folder):
    paths = sorted((folder / "ct").glob("0*.dcm"), reverse=True)
    shard, row = next(
        (shard, row) for shard in built.shards for row in built.index(shard).to_pylist() if row["field"] == "seg.b2nd"
    )
    layers = decode(built.member(row, shard))
    rows = built.index(shard).to_pylist()
    (said,) = [r for r in rows if r["key"] == row["key"] and r["field"] == "json"]
    facts = json.loads(built.member(said, shard))
    assert np.allclose(facts["affine"], grid_of(paths).affine)
    named = {(label["layer"], label["name"]): label for label in facts["labels"]}
    assert {name for _, name in named} == {"liver", "spleen"}
    voxels = {label["voxels"] for label in facts["labels"]}
    assert voxels == {int((MASK == 1).sum()), int((MASK == 2).sum()), 2 * 7 * 9}
    for label in facts["labels"]:
        assert (layers[label["layer"]] == label["value"]).sum() == label["voxels"]
        z0, y0, x0, z1, y1, x1 = label["box"]
        assert (layers[label["layer"], z0:z1, y0:y1, x0:x1] == label["value"]).sum() == label["voxels"]
    assert facts["labelled"] == "liver, spleen"


def test_inspect_tells_the_same_before_anything_is_built(folder):
    rows = {row["file"].removeprefix(f"{folder}/"): row for row in inspect(str(folder))}
    assert rows["ct/seg.dcm"]["verdict"] == "ok: 2 classes in 1 layer"
    assert rows["rt.dcm"]["verdict"] == "ok: 1 class in 1 layer"
    assert rows["orphan.dcm"]["verdict"].startswith("seg.no_image")
    assert (rows["brain.nrrd"]["shape"], rows["brain.nrrd"]["spacing_mm"]) == ([6, 20, 24], [2.0, 1.5, 1.0])
    assert rows["knee.mhd"]["verdict"] == "ok"
    assert "knee.raw" not in rows
    assert rows["alone.raw"]["verdict"].startswith("source.format")
    (zipped,) = [row for file, row in rows.items() if file.startswith("case.zip!/inner/")]
    assert (zipped["verdict"], zipped["objects"], zipped["shape"]) == ("ok", 6, [6, 20, 24])
    assert rows["notes.txt"]["verdict"].startswith("source.format")


def test_a_name_in_a_segment_of_a_patient_does_not_leave_its_file():
    named = {1: anatomy.label("Zorblax tumor"), 2: anatomy.label("liver")}
    layer = Volume(np.ones((2, 2, 2), np.uint8), np.eye(4), "label", "label", named)
    told = Scans("scans", "x")._labels(layer)
    assert (told[1], told[2].name) == (Label("segment 1"), "liver")
    assert Scans("scans", "x", deidentify="off")._labels(layer) == layer.labels
