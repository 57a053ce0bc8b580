"""A stored sample holds the medium: fields in their order, equal bytes for equal media, a thumbnail that is true."""

import io
import json
from dataclasses import replace

import blosc2
import numpy as np
import pytest
from PIL import Image

from medloom.connectors.images import encode_png, read_picture
from medloom.pipelines.stages.encode import encode
from medloom.schemas import b2nd
from medloom.schemas.errors import Refused
from medloom.schemas.medium import LAYOUTS, Medium, Region
from medloom.schemas.origin import Origin
from medloom.schemas.volume import Label, Volume, reorient

ORIGIN = Origin("scans", "id", "", "CC0-1.0", "declared", "cc0-1.0", "", "0" * 64)
AFFINE = np.array([[0.5, 0, 0, -100], [0, 0.75, 0, -50], [0, 0, 3, 10], [0, 0, 0, 1]])


def _volume(dtype: str = "int16") -> Volume:
    array = np.random.default_rng(0).integers(-1000, 1000, (12, 80, 100)).astype(dtype)
    return Volume(array, AFFINE, units="HU")


def _medium(content, **fields) -> Medium:
    fields = {"modality": "CT", "measured": {"max": 2.0, "min": 1.0}, "text": "Ünïcode", **fields}
    return Medium(key="k", unit="u", group="g", origin=ORIGIN, content=content, **fields)


def _labels(dtype: str, affine: np.ndarray = AFFINE) -> Volume:
    array = np.zeros((12, 80, 100), dtype)
    array[2:5, 10:20, 30:40] = 2
    return Volume(array, affine, units="label", kind="label", labels={2: Label("liver")})


def _shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_a_volume_is_stored_with_its_voxels_and_geometry():
    volume = _volume()
    sample = encode(_medium(volume), split="train")
    assert sample.layout == "volume"
    assert tuple(sample.members) == LAYOUTS["volume"]
    member = sample.members["ct.b2nd"]
    assert np.array_equal(b2nd.decode(member.data), volume.array)
    assert member.spacing_mm == (3.0, 0.75, 0.5)
    assert member.chunk_shape == (12, 80, 100)
    facts = json.loads(sample.members["json"].data)
    assert sample.members["json"].data.endswith(b"}\n")
    assert np.array_equal(facts["affine"], AFFINE)
    assert facts["text"] == "Ünïcode"
    assert facts["measured"] == {"max": 2.0, "min": 1.0}


def test_masks_are_stored_as_layers_beside_the_volume():
    layers = (_labels("uint8"), _labels("uint16"))
    sample = encode(_medium(_volume(), seg=layers, labelled=("liver",)), split="train")
    assert tuple(sample.members) == LAYOUTS["volume-seg"]
    member = sample.members["seg.b2nd"]
    assert (member.shape, member.dtype) == ((2, 12, 80, 100), "uint16")
    assert np.array_equal(b2nd.decode(member.data), np.stack([layer.array for layer in layers]))
    assert [row["layer"] for row in json.loads(sample.members["json"].data)["labels"]] == [0, 1]
    assert encode(_medium(_volume(), seg=layers[:1]), split="x").members["seg.b2nd"].dtype == "uint8"


def test_the_codec_is_that_of_volumes_and_not_of_masks():
    medium = _medium(_volume(), seg=(_labels("uint8"),), labelled=("liver",))
    usual, fast = encode(medium, split="train"), encode(medium, split="train", codec="bitshuffle_lz4")
    assert blosc2.ndarray_from_cframe(fast.members["ct.b2nd"].data).cparams.codec == blosc2.Codec.LZ4
    assert np.array_equal(b2nd.decode(fast.members["ct.b2nd"].data), medium.content.array)
    for field in ("json", "seg.b2nd", "thumb.jpg"):
        assert fast.members[field] == usual.members[field]


def test_a_mask_on_another_grid_is_refused():
    moved = AFFINE.copy()
    moved[0, 3] += 0.1
    with pytest.raises(Refused, match=r"seg\.grid"):
        encode(_medium(_volume(), seg=(_labels("uint8", moved),)), split="train")
    cropped = replace(_labels("uint8"), array=np.zeros((11, 80, 100), np.uint8))
    with pytest.raises(Refused, match=r"seg\.grid"):
        encode(_medium(_volume(), seg=(cropped,)), split="train")
    with pytest.raises(Refused, match=r"seg\.dtype"):
        encode(_medium(_volume(), seg=(_labels("int16"),)), split="train")


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_picture_is_stored_as_its_own_bytes(image_format):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(file, format=image_format)
    picture = read_picture(file.getvalue())
    sample = encode(_medium(picture, modality="figure"), split="test")
    assert tuple(sample.members) == LAYOUTS[picture.format] == ("json", picture.format)
    assert sample.members[picture.format].data == picture.data
    assert sample.members[picture.format].shape == (40, 60, 3)


def test_columns_are_what_filters_need():
    sample = encode(_medium(encode_png(np.zeros((40, 60), np.uint8)), pixel_digest="d", plane="axial"), split="test")
    assert sample.columns == {
        "unit": "u", "group": "g", "split": "test", "layout": "png", "modality": "CT", "body_part": "",
        "plane": "axial", "source": "scans", "licence": "", "terms_id": "cc0-1.0", "digest": "0" * 64,
        "pixel_digest": "d", "measured": {"max": 2.0, "min": 1.0}, "phash": "", "panels": [],
        "labels": [], "labelled": [], "affine": [], "units": "", "face": "", "voxel_digest": "",
    }  # fmt: skip


def test_columns_hold_the_classes_of_a_volume_and_where_it_is():
    liver = Region(0, 2, Label("liver"), 300, 0.3, (2, 10, 30, 5, 20, 40))
    medium = _medium(_volume(), seg=(_labels("uint8"),), labelled=("liver", "spleen"), regions=(liver,), face="none")
    columns = encode(medium, split="test").columns
    assert columns["labels"] == [{
        "layer": 0, "value": 2, "name": "liver", "side": "", "stated": "", "voxels": 300, "volume_ml": 0.3,
        "box": [2, 10, 30, 5, 20, 40],
    }]  # fmt: skip
    assert (columns["labelled"], columns["face"], columns["units"]) == (["liver", "spleen"], "none", "HU")
    assert columns["affine"] == AFFINE.ravel().tolist()


def test_the_same_medium_gives_the_same_bytes():
    layers = (_labels("uint8"),)
    first, second = (encode(_medium(_volume(), seg=layers), split="train") for _ in range(2))
    assert {f: m.data for f, m in first.members.items()} == {f: m.data for f, m in second.members.items()}


def test_cubes_are_the_chunks_of_an_isotropic_volume():
    volume = Volume(np.zeros((70, 70, 70), np.int16), np.eye(4))
    assert encode(_medium(volume), split="x").members["ct.b2nd"].chunk_shape == (64, 64, 64)


def test_the_thumbnail_shows_three_planes_true_to_their_spacing():
    volume = Volume(np.zeros((10, 100, 50), np.int16), np.diag([2.0, 1.0, 10.0, 1.0]))  # a cube of 100 mm
    shown = _shown(encode(_medium(volume), split="x").members["thumb.jpg"].data)
    assert shown.shape == (192, 3 * 192)


def test_the_thumbnail_has_right_on_the_left_anterior_and_superior_up():
    array = np.full((60, 60, 60), -1000, np.int16)
    array[:, :, 45:] = -100  # towards the patient's left: dark grey
    array[:, :15, :] = 40  # anterior: mid grey
    array[45:, :, :] = 1000  # superior: white
    volume = Volume(array, np.diag([1.0, 1.0, 1.0, 1.0]), units="HU")
    for stored in (volume, reorient(volume, "RAI"), reorient(volume, "PSR")):
        shown = _shown(encode(_medium(stored), split="x").members["thumb.jpg"].data).astype(int)
        axial, coronal, sagittal = np.split(shown, 3, axis=1)
        assert abs(axial[20, 96] - 127) < 8  # level of the window
        assert axial[150, 20] < 8
        assert abs(axial[150, 180] - 38) < 8
        assert coronal[20, 96] > 247
        assert abs(coronal[150, 180] - 38) < 8
        assert coronal[150, 20] < 8
        assert sagittal[20, 96] > 247
        assert abs(sagittal[150, 20] - 127) < 8


def test_other_modalities_are_shown_between_their_percentiles():
    array = np.tile(np.linspace(0, 5000, 100).astype(np.int16), (20, 100, 1))
    shown = _shown(encode(_medium(Volume(array, np.eye(4)), modality="MR"), split="x").members["thumb.jpg"].data)
    assert shown.min() < 10
    assert shown.max() > 245


def test_a_very_long_and_thin_volume_has_a_thumbnail():
    volume = Volume(np.ones((1, 2, 1000), np.float32), np.diag([1.0, 1.0, 0.1, 1.0]))
    height, width = _shown(encode(_medium(volume), split="x").members["thumb.jpg"].data).shape
    assert height <= 192
    assert width <= 3 * 384
