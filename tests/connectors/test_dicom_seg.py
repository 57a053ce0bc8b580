"""DICOM SEG against dcmqi and highdicom, on objects made by highdicom and on those of the corpus."""

import os
import struct
import zlib
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from medloom.connectors.dicom_reference import read_reference
from medloom.connectors.dicom_seg import read_seg
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume, reorient
from tests.bench.seg_agreement import agreement
from tests.connectors import dicom_made as made
from tests.connectors.dcmqi import voxels_by_dcmqi, voxels_of

LABELS = (
    made.segment(1, "Liver", codes.SCT.Liver),
    made.segment(2, "organ of J. Doe", codes.SCT.Kidney, side=codes.SCT.Left),
    made.segment(3, "tumour", codes.SCT.Neoplasm, region=codes.SCT.Liver),
)
NAMED = {
    1: Label("liver", stated="Liver"),
    2: Label("kidney", "left", stated="Kidney"),
    3: Label("liver tumor", stated="tumour"),
}


def _disjoint() -> np.ndarray:
    """Three segments side by side, (Z, Y, X) of 1 to 3; nothing symmetric, and no frame of a whole number of bytes."""
    masks = np.zeros((6, 19, 23), np.uint8)
    masks[1:4, 3:9, 4:11], masks[2:5, 10:15, 12:22], masks[2, 1, 6:8] = 1, 2, 3
    masks[3, 3, 4] = 0
    return masks


def _overlapping() -> np.ndarray:
    """The first two side by side, the third within the first, (Z, Y, X, segment)."""
    masks = np.stack([_disjoint() == value for value in (1, 2, 3)], axis=-1).astype(np.uint8)
    masks[2, 5:7, 6:8, 2] = 1
    return masks


def _written(folder: Path, masks: np.ndarray, kind: str = "BINARY", **changes: object) -> tuple[Path, Volume]:
    paths = made.ct_series(folder / "ct", orientation=made.OBLIQUE)
    seg = made.seg_of(paths, masks, LABELS, path=folder / "seg.dcm", kind=kind, **changes)
    return seg, made.grid_of(paths)


def _changed(seg: Path, **values: object) -> Path:
    """The same object with other values of some elements; None takes an element out."""
    dataset = pydicom.dcmread(seg)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    path = seg.with_name("changed.dcm")
    dataset.save_as(path)
    return path


def _reason(seg: Path, grid: Volume) -> str:
    with pytest.raises(Refused) as caught:
        read_seg(seg, grid)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segments_are_the_voxels_that_dcmqi_reads_and_that_were_written(tmp_path: Path, kind: str) -> None:
    masks = _disjoint()
    seg, grid = _written(tmp_path, masks, kind)
    layers = read_seg(seg, grid)
    assert len(layers) == 1
    assert layers[0].labels == NAMED
    assert layers[0].units == layers[0].kind == "label"
    assert np.array_equal(layers[0].array, masks)
    assert np.array_equal(layers[0].affine, grid.affine)
    assert voxels_of(layers) == voxels_by_dcmqi(seg, grid)


def test_overlapping_segments_are_in_layers_and_the_voxels_are_those_of_dcmqi(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _overlapping())
    layers = read_seg(seg, grid)
    assert [sorted(layer.labels) for layer in layers] == [[1, 2], [3]]
    assert voxels_of(layers) == voxels_by_dcmqi(seg, grid)


def test_segments_stand_where_highdicom_puts_them(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    volume = hd.seg.segread(seg).get_volume(combine_segments=True)  # (slice, row, column)
    to_grid = np.linalg.inv(grid.affine) @ volume.affine @ np.eye(4)[[2, 1, 0, 3]]
    indices = np.argwhere(volume.array)[:, ::-1]
    voxels = np.rint((np.column_stack([indices, np.ones(len(indices))]) @ to_grid.T)[:, :3]).astype(int)
    theirs = np.zeros(grid.shape, np.uint8)
    theirs[tuple(voxels[:, ::-1].T)] = volume.array[tuple(indices[:, ::-1].T)]
    assert np.array_equal(read_seg(seg, grid)[0].array, theirs)


def test_a_fraction_counts_from_one_half_on_and_the_reference_says_so(tmp_path: Path) -> None:
    fractions = np.zeros((6, 19, 23, 3), np.float32)
    fractions[2, 5, 5:9, 0] = [0.1, 0.49, 0.51, 1.0]
    seg, grid = _written(tmp_path, fractions, "FRACTIONAL")
    assert np.flatnonzero(read_seg(seg, grid)[0].array[2, 5]).tolist() == [7, 8]
    assert voxels_of(read_seg(seg, grid)) == voxels_by_dcmqi(seg, grid, above=127.5)
    assert read_reference(seg).transforms == ("seg-threshold(0.5)",)


def test_frames_are_placed_by_position_and_not_by_order(tmp_path: Path) -> None:
    paths = made.ct_series(tmp_path / "ct", orientation=made.SAGITTAL)
    order = [4, 0, 3, 1, 5]
    seg = made.seg_of([paths[i] for i in order], _disjoint()[order], LABELS, path=tmp_path / "seg.dcm")
    expected = _disjoint()
    expected[2] = 0  # no frame
    assert np.array_equal(read_seg(seg, made.grid_of(paths))[0].array, expected)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SRP", "AIL"])
def test_a_grid_that_is_flipped_and_permuted_gets_the_same_voxels(tmp_path: Path, orientation: str) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    turned, straight = reorient(grid, orientation), read_seg(seg, grid)[0]
    assert np.array_equal(read_seg(seg, turned)[0].array, reorient(straight, orientation).array)


def test_a_tilted_stack_keeps_its_masks(tmp_path: Path) -> None:
    paths = made.ct_series(tmp_path / "ct", shift_mm=(0.0, 0.83, 0.0))
    seg = made.seg_of(paths, _disjoint(), LABELS, path=tmp_path / "seg.dcm")
    assert np.array_equal(read_seg(seg, made.grid_of(paths))[0].array, _disjoint())


def test_a_part_of_the_image_gets_its_part_of_the_masks(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (5, 4, 2)
    part = Volume(grid.array[2:4, 4:12, 5:20], affine)
    assert np.array_equal(read_seg(seg, part)[0].array, _disjoint()[2:4, 4:12, 5:20])
    affine[:3, 3] += affine[:3, :3] @ (0, 0, 40)
    assert _reason(seg, Volume(part.array, affine)) == "seg.grid"


@pytest.mark.parametrize("change", ["half a voxel", "half a slice", "spacing", "direction", "step"])
def test_a_grid_that_is_not_that_of_the_frames_is_refused(tmp_path: Path, change: str) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    affine = grid.affine.copy()
    if change == "half a voxel":
        affine[:3, 3] += affine[:3, 0] / 2
    elif change == "half a slice":
        affine[:3, 3] += affine[:3, 2] / 2
    elif change == "spacing":
        affine[:3, 1] *= 1.01
    elif change == "step":
        affine[:3, 2] *= 0.8
    else:
        affine[:3, :3] = np.diag(grid.spacing_mm[::-1])
    assert _reason(seg, Volume(grid.array, affine)) == "seg.grid"


def test_rounded_positions_are_on_the_grid(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    dataset = pydicom.dcmread(seg)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [f"{value:.2f}" for value in place.ImagePositionPatient]
    dataset.save_as(seg)
    assert np.array_equal(read_seg(seg, grid)[0].array, _disjoint())


def test_an_object_without_a_frame_of_reference_is_read(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    bare = _changed(seg, FrameOfReferenceUID=None)
    with pytest.raises(ValueError, match="CoordinateSystem"):
        hd.seg.segread(bare).get_volume(
            combine_segments=True
        )  # the reason for which frames are not read through highdicom
    assert np.array_equal(read_seg(bare, grid)[0].array, _disjoint())
    assert read_reference(bare).frame_of_reference == ""


def test_masks_of_a_multi_frame_image_are_those_of_its_slices(tmp_path: Path) -> None:
    paths = made.ct_series(tmp_path / "ct")
    enhanced = made.enhanced_of(paths, tmp_path / "enhanced.dcm")
    groups = pydicom.dcmread(enhanced).PerFrameFunctionalGroupsSequence
    depths = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    seg = made.seg_of([enhanced], _disjoint()[np.argsort(np.argsort(depths))], LABELS, path=tmp_path / "seg.dcm")
    assert np.array_equal(read_seg(seg, made.grid_of(paths))[0].array, _disjoint())


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", JPEG2000Lossless),
        ("FRACTIONAL", JPEG2000Lossless),
        ("FRACTIONAL", RLELossless),
        ("LABELMAP", RLELossless),
        ("LABELMAP", JPEGLSLossless),
    ],
)
def test_compressed_frames_are_read(tmp_path: Path, kind: str, syntax: str) -> None:
    paths = made.ct_series(tmp_path / "ct", shape=(6, 34, 40))  # the coders that highdicom calls fail on small or odd
    masks = np.zeros((6, 34, 40), np.uint8)
    masks[:, :19, :23] = _disjoint()
    seg = made.seg_of(paths, masks, LABELS, path=tmp_path / "seg.dcm", kind=kind, transfer_syntax_uid=syntax)
    assert np.array_equal(read_seg(seg, made.grid_of(paths))[0].array, masks)


@pytest.mark.parametrize("packing", ["runs of packed bits", "runs of bytes", "deflated packed bits"])
def test_compressed_single_bits_are_read(tmp_path: Path, packing: str) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    frames = []
    for frame in pydicom.dcmread(seg).pixel_array:
        bits = np.packbits(frame, bitorder="little").tobytes()
        if packing == "deflated packed bits":
            deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            frames.append(deflater.compress(bits) + deflater.flush())
        else:
            data = bits if packing == "runs of packed bits" else frame.astype(np.uint8).tobytes()
            frames.append(struct.pack("<16I", 1, 64, *[0] * 14) + _runs(data))
    dataset = pydicom.dcmread(seg)
    deflated = packing == "deflated packed bits"
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless if deflated else RLELossless
    dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2) for frame in frames])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.save_as(seg)
    if deflated:  # a transfer syntax that pydicom does not know yet
        seg.write_bytes(seg.read_bytes().replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.8.1\0"))
    assert np.array_equal(read_seg(seg, grid)[0].array, _disjoint())


def _runs(data: bytes) -> bytes:
    """PackBits (PS3.5 G.3.1): repeated bytes as runs, every other byte as a literal of one."""
    coded, at = bytearray(), 0
    while at < len(data):
        length = 1
        while at + length < len(data) and length < 128 and data[at + length] == data[at]:
            length += 1
        coded += bytes([257 - length, data[at]]) if length > 1 else bytes([0, data[at]])
        at += length
    return bytes(coded)


def test_the_padding_value_of_a_label_map_is_background(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint(), "LABELMAP")
    dataset = pydicom.dcmread(seg)
    values = dataset.pixel_array.copy()
    values[values == 0] = 5
    dataset.SegmentSequence[0].SegmentNumber = dataset.PixelPaddingValue = 5
    dataset.PixelData = values.tobytes()
    dataset.save_as(seg)
    layer = read_seg(seg, grid)[0]
    assert layer.labels == NAMED
    assert np.array_equal(layer.array, _disjoint())


def test_a_segment_of_the_number_0_gets_a_free_value(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint(), "LABELMAP")
    dataset = pydicom.dcmread(seg)
    values = dataset.pixel_array.copy()
    values[values == 0], values[dataset.pixel_array == 1] = 5, 0
    dataset.SegmentSequence[0].SegmentNumber, dataset.SegmentSequence[1].SegmentNumber = 5, 0
    dataset.PixelPaddingValue, dataset.PixelData = 5, values.tobytes()
    dataset.save_as(seg)
    layer = read_seg(seg, grid)[0]
    assert np.array_equal(layer.array == 4, _disjoint() == 1)
    assert layer.labels[4] == NAMED[1]


def test_a_segment_without_a_pixel_keeps_its_label(tmp_path: Path) -> None:
    masks = _disjoint()
    masks[masks == 2] = 0
    seg, grid = _written(tmp_path, masks)
    assert read_seg(seg, grid)[0].labels == NAMED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfFrames": 10**9}, "dicom.size"),
        ({"NumberOfFrames": 90_000}, "dicom.truncated"),
        ({"NumberOfFrames": 6}, "dicom.header"),
        ({"Rows": 18}, "dicom.header"),
        ({"Columns": 24}, "dicom.truncated"),
        ({"Rows": 65535, "Columns": 65535}, "dicom.size"),
        ({"BitsAllocated": 32}, "dicom.header"),
        ({"SamplesPerPixel": 3}, "dicom.header"),
        ({"SegmentSequence": None}, "seg.segments"),
        ({"PerFrameFunctionalGroupsSequence": None}, "seg.geometry"),
        ({"SharedFunctionalGroupsSequence": None}, "seg.geometry"),
        ({"SegmentationType": "SURFACE"}, "seg.header"),
        ({"SegmentationType": "FRACTIONAL"}, "seg.header"),  # of no stated whole
        ({"PixelData": b""}, "dicom.no_pixels"),
        ({"PixelData": None}, "dicom.no_pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "reference.kind"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    assert _reason(_changed(seg, **change), grid) == reason


def test_segments_that_are_not_told_apart_are_refused(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    dataset = pydicom.dcmread(seg)
    dataset.SegmentSequence[1].SegmentNumber = 1
    assert _reason(_changed(seg, SegmentSequence=dataset.SegmentSequence), grid) == "seg.segments"
    del dataset.SegmentSequence[1]
    assert _reason(_changed(seg, SegmentSequence=dataset.SegmentSequence), grid) == "seg.segments"


def test_two_frames_of_a_segment_at_one_place_are_refused(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    groups = pydicom.dcmread(seg).PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence[0].ImagePositionPatient = groups[0].PlanePositionSequence[0].ImagePositionPatient
    assert _reason(_changed(seg, PerFrameFunctionalGroupsSequence=groups), grid) == "seg.frames"


def test_a_fraction_above_the_whole_is_refused(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint(), "FRACTIONAL")
    assert _reason(_changed(seg, MaximumFractionalValue=100), grid) == "seg.values"


def test_a_value_of_no_segment_in_a_label_map_is_refused(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint(), "LABELMAP")
    sequence = pydicom.dcmread(seg).SegmentSequence[:3]
    assert _reason(_changed(seg, SegmentSequence=sequence), grid) == "seg.values"


def test_broken_bytes_are_refused_or_read_and_never_crash(tmp_path: Path) -> None:
    seg, grid = _written(tmp_path, _disjoint())
    whole, random = seg.read_bytes(), np.random.default_rng(3)
    for _ in range(60):
        broken = bytearray(whole)
        for at in random.integers(128, len(whole), 8):
            broken[at] = random.integers(256)
        seg.write_bytes(broken[: random.integers(200, len(whole))] if random.random() < 0.3 else broken)
        try:
            layers = read_seg(seg, grid)
        except Refused:
            continue
        assert all(layer.shape == grid.shape for layer in layers)


def test_every_segment_of_the_corpus_has_the_voxels_that_dcmqi_reads() -> None:
    corpus = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not corpus:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    rows = agreement(Path(corpus) / "imaging" / "dicom")
    assert [row for row in rows if not row.is_same] == []
    assert sorted(row.ours for row in rows if "overlaps" in row.file) == [4713, 6693, 9602, 10743, 11888]
