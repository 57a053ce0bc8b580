"""Parametric maps against the values that were written and against dcmqi, run live."""

import json
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medloom.connectors.dicom_parametric import read_parametric
from medloom.connectors.dicom_reference import read_reference
from medloom.schemas.errors import Refused
from tests.connectors import dicom_made as made
from tests.connectors.dcmqi import affine_of

DIFFUSION = Code("um2/s", "UCUM", "um2/s")


def _mapping(label: str, unit: Code, *, whole: bool, slope: float = 1.0, intercept: float = 0.0) -> object:
    return hd.pm.RealWorldValueMapping(
        lut_label=label,
        lut_explanation=label,
        unit=unit,
        value_range=(0, 4095) if whole else (-1e9, 1e9),
        slope=slope,
        intercept=intercept,
        quantity_definition=codes.DCM.ApparentDiffusionCoefficient,
    )


def _written(folder: Path, values: np.ndarray, mappings: list, **series: object) -> tuple[Path, list[Path]]:
    paths = made.ct_series(folder / "ct", shape=values.shape[:3], **series)
    path = folder / "map.dcm"
    hd.pm.ParametricMap(
        source_images=[pydicom.dcmread(source) for source in paths],
        pixel_array=values,
        series_instance_uid=made.made_uid("map"),
        series_number=4,
        sop_instance_uid=made.made_uid("map", "object"),
        instance_number=1,
        manufacturer="made",
        manufacturer_model_name="made",
        software_versions="1",
        device_serial_number="1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=mappings,
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=1.0, window_width=2.0)],
    ).save_as(path)
    return path, paths


def _floats() -> np.ndarray:
    return np.random.default_rng(1).normal(1000, 300, (5, 20, 24)).astype(np.float32)


@pytest.mark.parametrize("orientation", [made.AXIAL, made.OBLIQUE])
def test_a_map_of_floats_is_what_was_written(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    values = _floats()
    path, paths = _written(tmp_path, values, [_mapping("ADC", DIFFUSION, whole=False)], orientation=orientation)
    (volume,) = read_parametric(path)
    assert volume.array.dtype == np.float32
    assert volume.units == "um2/s"
    assert np.array_equal(volume.array, values)
    assert np.allclose(volume.affine, made.grid_of(paths).affine, atol=1e-4)


def test_a_map_that_dcmqi_wrote_is_the_image_that_it_wrote_and_that_it_reads_back(tmp_path: Path) -> None:
    # Pixels are square: dcmqi 1.5.7 writes the two pixel spacings of a map in the wrong order.
    paths = made.ct_series(tmp_path / "ct", shape=(5, 20, 24), spacing_mm=(2.5, 0.8, 0.8), orientation=made.OBLIQUE)
    affine, values, path = made.grid_of(paths).affine, _floats(), tmp_path / "map.dcm"
    image = SimpleITK.GetImageFromArray(values)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(lengths.tolist())
    image.SetDirection((affine[:3, :3] / lengths).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(tmp_path / "image.nrrd"))
    (tmp_path / "meta.json").write_text(json.dumps(_META))
    _run("itkimage2paramap", inputImage=tmp_path / "image.nrrd", inputDICOMDirectory=tmp_path / "ct",
         inputMetadata=tmp_path / "meta.json", outputDICOM=path)  # fmt: skip
    _run("paramap2itkimage", inputDICOM=path, outputDirectory=tmp_path, prefix="back")
    back = SimpleITK.ReadImage(str(next(tmp_path.glob("back*.nrrd"))))
    (volume,) = read_parametric(path)
    assert volume.units == "um2/s"
    assert np.array_equal(volume.array, values)
    assert np.array_equal(volume.array, SimpleITK.GetArrayFromImage(back))
    assert np.allclose(volume.affine, affine, atol=1e-4)
    assert np.allclose(volume.affine, affine_of(back), atol=1e-4)


def _code(value: str, scheme: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


_META = {
    "SeriesDescription": "map",
    "SeriesNumber": "4",
    "InstanceNumber": "1",
    "BodyPartExamined": "LIVER",
    "QuantityValueCode": _code("113041", "DCM", "Apparent Diffusion Coefficient"),
    "MeasurementUnitsCode": _code("um2/s", "UCUM", "um2/s"),
    "MeasurementMethodCode": _code("113250", "DCM", "Mono-exponential ADC model"),
    "AnatomicRegionSequence": _code("10200004", "SCT", "Liver"),
    "DerivationCode": _code("110816", "DCM", "Time average"),
    "FrameLaterality": "U",
    "RealWorldValueSlope": "1",
    "DerivedPixelContrast": "ADC",
}


def _run(program: str, **options: object) -> None:
    command: list[object] = [Path(sys.executable).with_name(program)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def test_whole_numbers_are_measured_by_slope_and_intercept(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 4096, (4, 20, 24), dtype=np.uint16)
    mapping = _mapping("T1", codes.UCUM.Millisecond, whole=True, slope=0.25, intercept=-3.0)
    (volume,) = read_parametric(_written(tmp_path, values, [mapping])[0])
    assert volume.units == "ms"
    assert np.array_equal(volume.array, values * np.float32(0.25) - 3)


def test_several_maps_are_several_volumes(tmp_path: Path) -> None:
    values = np.stack([_floats(), _floats() * 2], axis=-1)
    mappings = [[_mapping("ADC", DIFFUSION, whole=False)], [_mapping("kurtosis", codes.UCUM.NoUnits, whole=False)]]
    first, second = read_parametric(_written(tmp_path, values, mappings)[0])
    assert (first.units, second.units) == ("um2/s", "1")
    assert np.array_equal(first.array, values[..., 0])
    assert np.array_equal(second.array, values[..., 1])


def test_frames_are_ordered_by_position(tmp_path: Path) -> None:
    values = _floats()
    path, _ = _written(tmp_path, values, [_mapping("ADC", DIFFUSION, whole=False)])
    dataset = pydicom.dcmread(path)
    order = [3, 0, 4, 1, 2]
    dataset.PerFrameFunctionalGroupsSequence = [dataset.PerFrameFunctionalGroupsSequence[i] for i in order]
    dataset.FloatPixelData = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(5, -1)[order].tobytes()
    dataset.save_as(path)
    assert np.array_equal(read_parametric(path)[0].array, values)


def test_units_that_are_free_text_are_not_told(tmp_path: Path) -> None:
    mapping = _mapping("ADC", Code("Mustermann", "99LOCAL", "x"), whole=False)
    assert read_parametric(_written(tmp_path, _floats(), [mapping])[0])[0].units == "arbitrary"


def test_the_series_that_it_was_made_from_is_referred_to(tmp_path: Path) -> None:
    path, paths = _written(tmp_path, _floats(), [_mapping("ADC", DIFFUSION, whole=False)])
    reference = read_reference(path)
    assert reference.kind == "parametric"
    assert set(reference.sop_uids) == {pydicom.dcmread(source).SOPInstanceUID for source in paths}
    assert reference.transforms == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfFrames": 10**9}, "dicom.size"),
        ({"NumberOfFrames": 50}, "dicom.header"),
        ({"NumberOfFrames": 4}, "dicom.header"),
        ({"Rows": 21}, "dicom.truncated"),
        ({"Columns": 22}, "dicom.header"),
        ({"PerFrameFunctionalGroupsSequence": None}, "parametric.geometry"),
        ({"SharedFunctionalGroupsSequence": None}, "parametric.mapping"),
        ({"FloatPixelData": None}, "dicom.no_pixels"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "reference.kind"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    path, _ = _written(tmp_path, _floats(), [_mapping("ADC", DIFFUSION, whole=False)])
    dataset = pydicom.dcmread(path)
    for keyword, value in change.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(path)
    with pytest.raises(Refused) as caught:
        read_parametric(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("turn", [[1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0]])
def test_directions_that_are_impossible_are_refused(tmp_path: Path, turn: list[float]) -> None:
    path, _ = _written(tmp_path, _floats(), [_mapping("ADC", DIFFUSION, whole=False)])
    dataset = pydicom.dcmread(path)
    dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = turn
    dataset.save_as(path)
    with pytest.raises(Refused, match=r"parametric\.geometry"):
        read_parametric(path)


@pytest.mark.parametrize("place", [[-50, -40, -297.0], [-50, -39, -297.5], [-50, -40, -290.0]])
def test_a_frame_off_the_even_grid_is_refused(tmp_path: Path, place: list[float]) -> None:
    path, _ = _written(tmp_path, _floats(), [_mapping("ADC", DIFFUSION, whole=False)])
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = place
    dataset.save_as(path)
    with pytest.raises(Refused, match=r"parametric\.grid"):
        read_parametric(path)
