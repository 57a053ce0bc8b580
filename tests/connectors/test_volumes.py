"""NRRD, MetaImage and MGH give the voxels and positions of SimpleITK and nibabel; what lies is refused."""

import bz2
import gzip
import math
import os
import time
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own manual's name

from medloom.connectors import volumes
from medloom.connectors.images import HEAD_BYTES, sniff
from medloom.schemas.errors import Refused

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ANGLE = 0.3
ROTATION = np.array([[math.cos(ANGLE), math.sin(ANGLE), 0], [-math.sin(ANGLE), math.cos(ANGLE), 0], [0, 0, -1.0]])


def _array(dtype: str = "int16", shape: tuple[int, ...] = (7, 6, 5)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def _itk(array: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.9, 2.5))
    image.SetOrigin((-120.5, 33.25, 1000.125))
    image.SetDirection(ROTATION.ravel())
    return image


def _affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def _kind(path: Path) -> str:
    return sniff(path.read_bytes()[:HEAD_BYTES])


def _reason(path: Path, *, labels: bool = False) -> str:
    with pytest.raises(Refused) as error:
        (volumes.read_labels if labels else volumes.read_volumes)(path, _kind(path))
    return error.value.reason


@pytest.mark.parametrize("name", ["x.nrrd", "x.nhdr", "x.mha", "x.mhd"])
@pytest.mark.parametrize("compress", [False, True])
def test_voxels_and_positions_are_simpleitks(tmp_path, name, compress):
    path = tmp_path / name
    for dtype in ("uint8", "int16", "uint16", "float32"):
        sitk.WriteImage(_itk(_array(dtype)), path, compress)
        image = sitk.ReadImage(path)
        (volume,) = volumes.read_volumes(path, _kind(path))
        assert volume.array.dtype == dtype
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
        assert np.abs(volume.affine - _affine(image)).max() < 1e-12
        header = volumes.read_header(path, _kind(path))
        assert (header.shape, header.n_volumes, header.is_segmentation) == ((7, 6, 5), 1, False)
        assert header.spacing_mm == pytest.approx((2.5, 0.9, 0.7))
        assert len(header.companions) == (name in ("x.nhdr", "x.mhd"))


@pytest.mark.parametrize("name", ["x.mgz", "x.mgh"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32"])
def test_voxels_and_positions_are_nibabels(tmp_path, name, dtype):
    affine = RAS_TO_LPS @ _affine(_itk(_array()))
    nib.save(nib.MGHImage(_array(dtype, (5, 6, 7, 2)), affine), tmp_path / name)
    assert _kind(tmp_path / name) == name[2:]
    image = nib.load(tmp_path / name)
    found = volumes.read_volumes(tmp_path / name, name[2:])
    assert len(found) == volumes.read_header(tmp_path / name, name[2:]).n_volumes == 2
    for index, volume in enumerate(found):
        assert np.array_equal(volume.array.T, np.asarray(image.dataobj)[..., index])
        assert np.abs(RAS_TO_LPS @ volume.affine - image.affine).max() < 1e-3
        assert volume.array.dtype == ("int16" if dtype == "int32" else dtype)


def test_several_volumes_of_a_metaimage_are_several(tmp_path):
    array = _array(shape=(3, 7, 6, 5))
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), tmp_path / "x.mha")
    found = volumes.read_volumes(tmp_path / "x.mha", "mha")
    assert [np.array_equal(volume.array, one) for volume, one in zip(found, array, strict=True)] == [True] * 3


FIELDS = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "5 6 7",
    "space directions": "(0.7,0.1,0) (-0.1,0.9,0) (0,0,2.5)", "kinds": "domain domain domain", "endian": "little",
    "encoding": "raw", "space origin": "(1,2,3)",
}  # fmt: skip


def _nrrd(path: Path, data: bytes, *, keys: dict[str, str] | None = None, **fields: str) -> Path:
    stated = FIELDS | {name.replace("_", " "): value for name, value in fields.items()}
    lines = ["NRRD0004", "# a comment", *(f"{name}: {value}" for name, value in stated.items() if value)]
    lines += [f"{name}:={value}" for name, value in (keys or {}).items()]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + data)
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [("left-posterior-superior", (1, 1, 1)), ("LPS", (1, 1, 1)), ("right-anterior-superior", (-1, -1, 1)),
     ("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1)), ("LAS", (1, -1, 1))],
)  # fmt: skip
def test_every_space_of_a_patient_becomes_lps(tmp_path, space, signs):
    path = _nrrd(tmp_path / "x.nrrd", _array().tobytes(), space=space)
    (volume,) = volumes.read_volumes(path, "nrrd")
    plain = np.array([[0.7, -0.1, 0, 1], [0.1, 0.9, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])
    assert np.array_equal(volume.affine, np.diag([*signs, 1.0]) @ plain)
    orthogonal = _nrrd(tmp_path / "y.nrrd", _array().tobytes(), space=space, space_directions="(2,0,0) (0,3,0) (0,0,4)")
    (volume,) = volumes.read_volumes(orthogonal, "nrrd")
    assert np.abs(volume.affine - _affine(sitk.ReadImage(orthogonal))).max() < 1e-12


@pytest.mark.parametrize(
    "fields",
    [{"space": ""}, {"space": "scanner-xyz"}, {"space": "3D-right-handed"}, {"space": "", "space_dimension": "3"},
     {"space_directions": "", "spacings": "1 1 1"}],
)  # fmt: skip
def test_a_file_whose_left_and_right_are_unknown_is_refused(tmp_path, fields):
    assert _reason(_nrrd(tmp_path / "x.nrrd", _array().tobytes(), **fields)) == "nrrd.orientation"


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("raw", bytes), ("gzip", gzip.compress), ("gz", gzip.compress), ("bzip2", bz2.compress), ("bz2", bz2.compress)],
)
def test_every_packing_is_unpacked(tmp_path, encoding, pack):
    big = _array(shape=(40, 200, 200))  # more than a block
    path = _nrrd(tmp_path / "x.nrrd", pack(big.astype(">i2").tobytes()), encoding=encoding, endian="big",
                 sizes="200 200 40")  # fmt: skip
    assert np.array_equal(volumes.read_volumes(path, "nrrd")[0].array, big)
    packed = _array().tobytes()
    skipped = {"byte skip": "10"}
    path = _nrrd(tmp_path / "x.nrrd", pack(b"x" * 10 + packed), encoding=encoding, **skipped)
    if "bz" in encoding:
        assert _reason(path) == "nrrd.encoding"
    else:
        assert np.array_equal(volumes.read_volumes(path, "nrrd")[0].array, _array())


@pytest.mark.parametrize(
    ("stated", "dtype"),
    [("signed char", "int8"), ("unsigned char", "uint8"), ("unsigned short int", "uint16"), ("int32_t", "int32"),
     ("uint", "uint32"), ("long long", "int64"), ("uint64", "uint64"), ("float", "float32"), ("double", "float64")],
)  # fmt: skip
def test_every_type_is_read_without_loss(tmp_path, stated, dtype):
    path = _nrrd(tmp_path / "x.nrrd", _array(dtype).tobytes(), type=stated)
    assert np.array_equal(volumes.read_volumes(path, "nrrd")[0].array, _array(dtype))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sizes": "5 6 8"}, "nrrd.truncated"),
        ({"sizes": "5 6 6"}, "nrrd.extra"),
        ({"sizes": "60000 60000 60000"}, "nrrd.size"),
        ({"sizes": "1200 1000 1000"}, "nrrd.truncated"),
        ({"sizes": "5 6"}, "nrrd.corrupt"),
        ({"sizes": "5 6 0"}, "nrrd.corrupt"),
        ({"sizes": "5 6 -7"}, "nrrd.corrupt"),
        ({"sizes": "99999999999999999999 1 1"}, "nrrd.corrupt"),
        ({"dimension": "2"}, "nrrd.corrupt"),
        ({"dimension": ""}, "nrrd.corrupt"),
        ({"type": "block"}, "nrrd.dtype"),
        ({"endian": ""}, "nrrd.corrupt"),
        ({"encoding": "ascii"}, "nrrd.encoding"),
        ({"encoding": "gzip"}, "nrrd.corrupt"),
        ({"space directions": "(1,0,0) (0,1,0)"}, "nrrd.corrupt"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0)"}, "nrrd.corrupt"),
        ({"space directions": "(1,0,0) (0,1,0) none"}, "nrrd.shape"),
        ({"space directions": "(1,0,0) (0,1,0) (0,1,0)"}, "nrrd.affine"),
        ({"space directions": "(1,0,0) (0,1,0) (0,0,nan)"}, "nrrd.affine"),
        ({"space units": '"cm" "cm" "cm"'}, "nrrd.units"),
        ({"line skip": "3"}, "nrrd.encoding"),
        ({"data file": "/etc/passwd"}, "nrrd.companion"),
        ({"data file": "../x.raw"}, "nrrd.companion"),
        ({"data file": "a\\x.raw"}, "nrrd.companion"),
        ({"data file": "absent.raw"}, "nrrd.companion"),
        ({"data file": "x%03d.raw 1 7 1"}, "nrrd.companion"),
        ({"data file": "LIST"}, "nrrd.companion"),
    ],
)
def test_headers_of_nrrd_that_lie_are_refused_quickly(tmp_path, fields, reason):
    path = _nrrd(tmp_path / "x.nrrd", _array().tobytes(), **fields)
    start = time.monotonic()
    assert _reason(path) == reason
    assert time.monotonic() - start < 2


def test_vectors_and_colours_are_refused(tmp_path):
    data = _array("uint8", (7, 6, 5, 3)).tobytes()
    more = {"type": "uchar", "dimension": "4", "sizes": "3 5 6 7",
            "space_directions": "none (1,0,0) (0,1,0) (0,0,1)"}  # fmt: skip
    for kind in ("vector", "RGB-color", "3-vector", "covariant-vector"):
        path = _nrrd(tmp_path / "x.nrrd", data, kinds=f"{kind} domain domain domain", **more)
        assert _reason(path) == "nrrd.vector"
    sitk.WriteImage(sitk.GetImageFromArray(_array("uint8", (7, 6, 5, 3)), isVector=True), tmp_path / "x.mha")
    assert _reason(tmp_path / "x.mha") == "meta.vector"


def _segmentation(path: Path, layers: np.ndarray, keys: dict[str, str]) -> Path:
    """Write layers (L, Z, Y, X) as 3D Slicer does: the axis of layers is the fastest."""
    n, z, y, x = layers.shape
    return _nrrd(
        path, gzip.compress(np.ascontiguousarray(np.moveaxis(layers, 0, -1)).tobytes()), keys=keys, type="uchar",
        dimension="4", sizes=f"{n} {x} {y} {z}", space_directions="none (0.7,0.1,0) (-0.1,0.9,0) (0,0,2.5)",
        kinds="list domain domain domain", encoding="gzip", endian="",
    )  # fmt: skip


SEGMENTS = {
    "Segment0_ID": "Segment_1", "Segment0_Name": "liver", "Segment0_LabelValue": "1", "Segment0_Layer": "0",
    "Segment0_Extent": "0 4 0 5 0 6", "Segment1_Name": "Segment_2", "Segment1_LabelValue": "2", "Segment1_Layer": "0",
    "Segment1_Tags": "Segmentation.Status:inprogress|TerminologyEntry:Segmentation category and type"
    "~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^24028007^Right~~^^~^^|",
    "Segment2_Name": "liver_tumour", "Segment2_LabelValue": "1", "Segment2_Layer": "1",
    "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
}  # fmt: skip


def test_segments_of_3d_slicer_become_layers_with_names(tmp_path):
    layers = np.zeros((2, 7, 6, 5), np.uint8)
    layers[0, :3] = 1
    layers[0, 4] = 2
    layers[1, 1, 2:4] = 1
    path = _segmentation(tmp_path / "x.seg.nrrd", layers, SEGMENTS)
    assert volumes.read_header(path, "nrrd").is_segmentation
    found = volumes.read_labels(path, "nrrd")
    assert [np.array_equal(volume.array, layer) for volume, layer in zip(found, layers, strict=True)] == [True, True]
    assert {value: (label.name, label.side, label.stated) for value, label in found[0].labels.items()} == {
        1: ("liver", "", "liver"), 2: ("kidney", "right", "Right Kidney")
    }  # fmt: skip
    assert [label.name for label in found[1].labels.values()] == ["liver tumor"]
    assert {volume.kind for volume in found} == {"label"}
    assert all(volume.array.flags.c_contiguous for volume in found)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), np.moveaxis(layers, 0, -1))


def test_segments_without_value_and_layer_are_one_layer_each(tmp_path):
    layers = np.zeros((2, 7, 6, 5), np.uint8)
    layers[0, :3], layers[1, 2:] = 1, 1
    keys = {"Segment0_Name": "spleen", "Segment1_Name": "stomach"}
    found = volumes.read_labels(_segmentation(tmp_path / "x.nrrd", layers, keys), "nrrd")
    assert [[label.name for label in volume.labels.values()] for volume in found] == [["spleen"], ["stomach"]]


@pytest.mark.parametrize(
    "change",
    [{"Segment0_LabelValue": "3"}, {"Segment0_LabelValue": "-1"}, {"Segment0_LabelValue": "0"},
     {"Segment2_Layer": "2"}, {"Segment2_Layer": "x"}, {"Segment1_LabelValue": "1"}],
)  # fmt: skip
def test_segments_that_are_not_those_of_the_voxels_are_refused(tmp_path, change):
    layers = np.zeros((2, 7, 6, 5), np.uint8)
    layers[0, :3], layers[1, 2] = 1, 1
    path = _segmentation(tmp_path / "x.nrrd", layers, SEGMENTS | change)
    assert _reason(path, labels=True) == "nrrd.segments"


META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "0 1 0 1 0 0 0 0 -1", "Offset": "1 2 3",
    "AnatomicalOrientation": "RAI", "ElementSpacing": "0.7 0.9 2.5", "DimSize": "5 6 7", "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}  # fmt: skip


def _meta(path: Path, data: bytes, **fields: str) -> Path:
    stated = META | fields
    last = {"ElementDataFile": stated.pop("ElementDataFile")}
    lines = [f"{name} = {value}" for name, value in (stated | last).items() if value]
    path.write_bytes("\n".join([*lines, ""]).encode() + data)
    return path


def test_a_row_of_the_matrix_is_the_direction_of_an_axis(tmp_path):
    path = _meta(tmp_path / "x.mha", _array(">i2").tobytes(), BinaryDataByteOrderMSB="True")
    (volume,) = volumes.read_volumes(path, "mha")
    image = sitk.ReadImage(path)
    assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert np.abs(volume.affine - _affine(image)).max() < 1e-12
    assert volume.orientation == "PLI"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"DimSize": "5 6 8"}, "meta.truncated"),
        ({"DimSize": "5 6 6"}, "meta.extra"),
        ({"DimSize": "60000 60000 60000"}, "meta.size"),
        ({"DimSize": "5 6 0"}, "meta.corrupt"),
        ({"DimSize": "5 6 7.5"}, "meta.corrupt"),
        ({"DimSize": "5 6 inf"}, "meta.corrupt"),
        ({"NDims": "2"}, "meta.corrupt"),
        ({"NDims": "2", "DimSize": "5 42"}, "meta.shape"),
        ({"ElementType": "MET_STRING"}, "meta.dtype"),
        ({"ElementType": "MET_LONG_LONG"}, "meta.truncated"),
        ({"ElementType": "MET_CHAR"}, "meta.extra"),
        ({"TransformMatrix": ""}, "meta.orientation"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "meta.affine"),
        ({"TransformMatrix": "1 0 0 1"}, "meta.corrupt"),
        ({"ElementSpacing": "1 1 0"}, "meta.corrupt"),
        ({"ElementSpacing": "1 1 nan"}, "meta.corrupt"),
        ({"CompressedData": "True"}, "meta.corrupt"),
        ({"CompressedData": "maybe"}, "meta.corrupt"),
        ({"BinaryData": "False"}, "meta.encoding"),
        ({"HeaderSize": "-2"}, "meta.corrupt"),
        ({"HeaderSize": "1000000"}, "meta.truncated"),
        ({"ElementToIntensityFunctionSlope": "2"}, "meta.scaling"),
        ({"ElementDataFile": "/etc/passwd"}, "meta.companion"),
        ({"ElementDataFile": "../x.raw"}, "meta.companion"),
        ({"ElementDataFile": "LIST"}, "meta.companion"),
        ({"ElementDataFile": "absent.raw"}, "meta.companion"),
    ],
)
def test_headers_of_metaimages_that_lie_are_refused_quickly(tmp_path, fields, reason):
    path = _meta(tmp_path / "x.mha", _array().tobytes(), **fields)
    start = time.monotonic()
    assert _reason(path) == reason
    assert time.monotonic() - start < 2


def test_a_header_before_the_voxels_is_passed_over(tmp_path):
    for size in ("100", "-1"):
        path = _meta(tmp_path / "x.mhd", b"", HeaderSize=size, ElementDataFile="x.raw")
        (tmp_path / "x.raw").write_bytes(b"h" * 100 + _array().tobytes())
        assert _kind(path) == "mhd"
        (volume,) = volumes.read_volumes(path, "mhd")
        assert np.array_equal(volume.array, _array())
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(path)), _array())


def test_a_companion_may_lie_elsewhere_when_its_place_is_given(tmp_path):
    (tmp_path / "a").mkdir()
    path = _meta(tmp_path / "a/x.mhd", b"", ElementDataFile="x.zraw", CompressedData="True")
    (tmp_path / "b").write_bytes(zlib.compress(_array().tobytes()))
    assert volumes.read_header(path, "mhd").companions == ("x.zraw",)
    (volume,) = volumes.read_volumes(path, "mhd", companions={"x.zraw": str(tmp_path / "b")})
    assert np.array_equal(volume.array, _array())
    assert _reason(path) == "meta.companion"


def test_an_mgh_without_directions_is_refused(tmp_path):
    nib.save(nib.MGHImage(_array(shape=(5, 6, 7)), np.eye(4)), tmp_path / "x.mgh")
    data = bytearray((tmp_path / "x.mgh").read_bytes())
    data[28:30] = b"\0\0"  # goodRASFlag
    (tmp_path / "x.mgh").write_bytes(data)
    assert _reason(tmp_path / "x.mgh") == "mgh.orientation"


@pytest.mark.parametrize("name", ["raw.nrrd", "packed.nrrd", "raw.mha", "packed.mha", "x.mgz", "x.mgh"])
def test_cut_longer_and_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    if path.suffix.startswith(".mg"):
        nib.save(nib.MGHImage(_array(shape=(20, 30, 40)), np.eye(4)), path)
    else:
        sitk.WriteImage(_itk(_array(shape=(40, 30, 20))), path, "packed" in name)
    kind, whole = _kind(path), path.read_bytes()
    voxels_end = len(whole) - (20 if name == "x.mgh" else 0)  # scan parameters follow the voxels of a MGH
    for cut in (50, 200, len(whole) // 2, voxels_end - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(Refused) as error:
            volumes.read_volumes(path, kind)
        assert error.value.reason.split(".")[1] in ("truncated", "corrupt", "not_mgh", "not_meta"), cut
    if "mgh" not in name:
        path.write_bytes(whole + b"more")
        assert _reason(path).split(".")[1] in ("extra", "corrupt", "truncated")
    if name.startswith("packed") or name == "x.mgz":
        for place in (len(whole) // 2, len(whole) - 3):  # of the stream, of its checksum
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert _reason(path).split(".")[1] == "corrupt"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_a_whole_stream_that_holds_too_little_is_refused(tmp_path, encoding, pack):
    path = _nrrd(tmp_path / "x.nrrd", pack(_array().tobytes()[:-1]), encoding=encoding)
    assert _reason(path) == "nrrd.truncated"


def test_nothing_is_allocated_for_more_than_a_file_can_hold(tmp_path):
    path = _nrrd(tmp_path / "x.nrrd", gzip.compress(_array().tobytes()), encoding="gzip", sizes="1200 1200 1200")
    tracemalloc.start()
    assert _reason(path) == "nrrd.truncated"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_bomb_costs_no_more_than_it_declares(tmp_path):
    data = gzip.compress(_array().tobytes() + bytes(50_000_000)) + gzip.compress(bytes(50_000_000)) * 40
    path = _nrrd(tmp_path / "x.nrrd", data, encoding="gzip")
    start = time.monotonic()
    assert _reason(path) == "nrrd.extra"
    assert time.monotonic() - start < 1


def test_texts_of_a_header_are_nowhere(tmp_path):
    keys = {"DICOM_0010_0010_NAME": "Doe^Jane", "Segment0_Name": "liver"}
    path = _nrrd(tmp_path / "x.nrrd", _array().tobytes(), keys=keys, content="Doe^Jane")
    assert "Doe" not in repr(volumes._header(path, "nrrd"))
    path.write_bytes(path.read_bytes().replace(b"content: Doe^Jane", b"Doe^Jane\nDoe^Jane: 1\nDoe^Jane: 2"))
    with pytest.raises(Refused) as error:
        volumes.read_volumes(path, "nrrd")
    assert "Doe" not in str(error.value)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"NRRD0005\ntype: short\n", "nrrd"),
        (b"NRRD0009\ntype: short\n", "unknown"),
        (b"ObjectType = Image\nNDims = 3\nElementDataFile = LOCAL\n\0\1", "mha"),
        (b"ObjectType = Image\r\nNDims = 3\r\nElementDataFile = x.raw\r\n", "mhd"),
        (b"NDims = 3\nDimSize = 5 6 7\nElementDataFile=local\n", "mha"),
        (b"Comment = by hand\nObjectType = Image\nElementDataFile = x y.raw\n", "mhd"),
        (b"ObjectType = Scene\nNDims = 3\n", "unknown"),
        (b"\0\0\0\1" + b"\0\0\0\5" * 4 + b"\0\0\0\4" + bytes(300), "mgh"),
        (gzip.compress(b"\0\0\0\1" + b"\0\0\0\5" * 4 + b"\0\0\0\4" + bytes(300)), "mgz"),
        (b"\0\0\0\1" + bytes(400), "unknown"),
    ],
)
def test_a_volume_is_known_by_its_first_bytes(head, kind):
    assert sniff(head) == kind


def test_the_corpus_agrees_with_simpleitk():
    folder = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not folder:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    paths = [path for part in ("nrrd", "mha") for path in sorted(Path(folder, "imaging", part).iterdir())]
    assert len(paths) > 10
    for path in paths:
        image = sitk.ReadImage(path)
        (volume,) = volumes.read_volumes(path, _kind(path))
        assert np.array_equal(volume.array, sitk.GetArrayFromImage(image)), path.name
        assert np.abs(volume.affine - _affine(image)).max() < 1e-9, path.name
        if "label" in path.name or "seg" in path.name:
            (layer,) = volumes.read_labels(path, _kind(path))
            assert np.array_equal(layer.array, volume.array), path.name
