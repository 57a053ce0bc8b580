"""RTSTRUCT: areas against closed forms, pixels against distances from a centre, on generated structure sets."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medloom.connectors.dicom import read_series
from medloom.connectors.dicom_reference import read_reference
from medloom.connectors.dicom_rtstruct import filled, read_rtstruct
from medloom.schemas.errors import Refused
from medloom.schemas.volume import Label, Volume, reorient
from tests.connectors import dicom_made as made

SHAPE = (5, 64, 80)


def _ellipse(x: float, y: float, a: float, b: float, points: int = 720) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.column_stack([x + a * np.cos(angles), y + b * np.sin(angles)])


def _inside(x: float, y: float, a: float, b: float) -> np.ndarray:
    """The pixels of SHAPE whose centres are within the ellipse."""
    rows, columns = np.mgrid[: SHAPE[1], : SHAPE[2]]
    return ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1


def _written(folder: Path, regions: dict, orientation: tuple[float, ...] = made.AXIAL, **more: str) -> tuple:
    paths = made.ct_series(folder / "ct", shape=SHAPE, orientation=orientation)
    return made.rtstruct_of(paths, regions, path=folder / "rt.dcm", **more), made.grid_of(paths)


def _reason(path: Path, grid: Volume) -> str:
    with pytest.raises(Refused) as caught:
        read_rtstruct(path, grid)
    return caught.value.reason


@pytest.mark.parametrize("axes", [(5.3, 5.3), (20.7, 11.2), (27.9, 27.9)])
def test_an_ellipse_is_the_pixels_within_it_and_has_its_area(axes: tuple[float, float]) -> None:
    a, b = axes
    mask = filled([_ellipse(40.3, 31.8, a, b, 4000)], SHAPE[1:])
    assert np.array_equal(mask, _inside(40.3, 31.8, a, b))
    assert mask.sum() == pytest.approx(np.pi * a * b, rel=0.03)


def test_a_polygon_that_is_not_convex_has_the_area_of_the_shoelace_formula() -> None:
    comb = [(10, 10), (390, 10), (390, 200), (300, 200), (300, 60), (200, 60), (200, 390), (10, 390)]
    line = np.array(comb) + 0.3
    x, y = line.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert filled([line], (400, 400)).sum() == pytest.approx(area, rel=0.002)


def test_the_middle_of_a_pentagram_is_outside_by_the_even_odd_rule() -> None:
    angles = np.arange(5) * 4 * np.pi / 5
    mask = filled([np.column_stack([200 + 150 * np.cos(angles), 200 + 150 * np.sin(angles)])], (400, 400))
    assert not mask[200, 200]
    assert mask[200, 320]


def test_regions_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    left, right = [(2, 3), (10, 3), (10, 9), (2, 9)], [(10, 3), (17, 3), (17, 9), (10, 9)]
    whole = [(2, 3), (17, 3), (17, 9), (2, 9)]
    one, other, both = (filled([np.array(line, float)], (12, 20)) for line in (left, right, whole))
    assert one.sum() == 48
    assert not (one & other).any()
    assert np.array_equal(one | other, both)


def test_lines_far_outside_cost_nothing_and_fill_what_they_enclose() -> None:
    square = np.array([(-1e9, -1e9), (1e9, -1e9), (1e9, 1e9), (-1e9, 1e9)])
    assert filled([square], (7, 9)).all()
    assert not filled([square + 3e9], (7, 9)).any()


@pytest.mark.parametrize("orientation", [made.AXIAL, made.SAGITTAL, made.OBLIQUE])
def test_contours_are_on_their_slices_in_any_orientation(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    regions = {"Liver": [(1, _ellipse(40, 30, 20, 12)), (2, _ellipse(41, 30, 18, 10))]}
    rtstruct, grid = _written(tmp_path, regions, orientation)
    (layer,) = read_rtstruct(rtstruct, grid)
    assert layer.labels == {1: Label("liver", stated="Liver")}
    assert layer.array[[0, 3, 4]].sum() == 0  # nothing beside, and nothing between
    for index, (x, a, b) in ((1, (40, 20, 12)), (2, (41, 18, 10))):
        assert (layer.array[index].astype(bool) != _inside(x, 30, a, b)).sum() <= 4  # centres on the line itself


def test_a_contour_within_another_is_a_hole_and_one_beside_it_is_a_part(tmp_path: Path) -> None:
    lines = [_ellipse(30.2, 30.1, 20, 20), _ellipse(30.2, 30.1, 9, 9), _ellipse(66.4, 30.3, 7, 7)]
    rtstruct, grid = _written(tmp_path, {"Heart": [(2, line) for line in lines] + [(2, lines[0])]})  # once more: a copy
    mask = read_rtstruct(rtstruct, grid)[0].array[2].astype(bool)
    annulus = _inside(30.2, 30.1, 20, 20) & ~_inside(30.2, 30.1, 9, 9)
    assert (mask != (annulus | _inside(66.4, 30.3, 7, 7))).sum() <= 4
    assert mask.sum() == pytest.approx(np.pi * (20**2 - 9**2 + 7**2), rel=0.02)


def test_regions_that_overlap_are_in_layers(tmp_path: Path) -> None:
    regions = {
        "Lung_L": [(1, _ellipse(20, 30, 12, 12))],
        "GTV-1": [(1, _ellipse(22, 30, 5, 5))],
        "Lung_R": [(1, _ellipse(60, 30, 12, 12))],
    }
    rtstruct, grid = _written(tmp_path, regions)
    layers = read_rtstruct(rtstruct, grid)
    assert [sorted(layer.labels) for layer in layers] == [[1, 3], [2]]
    assert layers[0].labels[1] == Label("lung", "left", "Lung_L")
    assert np.count_nonzero(layers[0].array[1] == 1) == pytest.approx(np.pi * 144, rel=0.05)


def test_a_name_that_may_be_a_persons_is_not_told(tmp_path: Path) -> None:
    rtstruct, grid = _written(tmp_path, {"GTV Dr. Mustermann": [(1, _ellipse(20, 30, 9, 9))]})
    assert read_rtstruct(rtstruct, grid)[0].labels == {1: Label("segment 1", stated="segment 1")}


def test_contours_are_on_the_slice_nearest_to_them_and_the_nearest_plane_counts(tmp_path: Path) -> None:
    drawn = [(1.1, _ellipse(20, 30, 9, 9)), (1.45, _ellipse(50, 30, 9, 9)), (2.6, _ellipse(40, 20, 9, 9))]
    rtstruct, grid = _written(tmp_path, {"Liver": drawn})
    array = read_rtstruct(rtstruct, grid)[0].array
    assert [bool(plane.any()) for plane in array] == [False, True, False, True, False]
    assert array[1, 30, 20] == 1
    assert array[1, 30, 50] == 0
    assert array[3, 20, 40] == 1


def test_a_flipped_grid_gets_the_same_voxels(tmp_path: Path) -> None:
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, _ellipse(40.3, 30.2, 20, 12))]})
    straight = read_rtstruct(rtstruct, grid)[0]
    for orientation in ("RPS", "SAL"):
        turned = read_rtstruct(rtstruct, reorient(grid, orientation))[0]
        assert np.array_equal(turned.array, reorient(straight, orientation).array)


def test_contours_off_the_planes_of_the_slices_are_refused(tmp_path: Path) -> None:
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, _ellipse(40, 30, 20, 12))]})
    affine = np.eye(4)
    affine[:3, :3] = np.reshape([*made.OBLIQUE, *np.cross(made.OBLIQUE[:3], made.OBLIQUE[3:])], (3, 3)).T
    affine[:3, 3] = grid.affine[:3, 3]
    assert _reason(rtstruct, Volume(grid.array, affine)) == "rtstruct.plane"


def test_contours_beyond_the_image_are_refused_and_some_of_them_left_out(tmp_path: Path) -> None:
    regions = {"Liver": [(2, _ellipse(40, 30, 20, 12))], "Heart": [(4.9, _ellipse(40, 30, 20, 12))]}
    rtstruct, grid = _written(tmp_path, regions)
    (layer,) = read_rtstruct(rtstruct, grid)
    assert sorted(layer.labels) == [1, 2]
    assert not (layer.array == 2).any()
    assert _reason(rtstruct, Volume(grid.array[:2], grid.affine)) == "rtstruct.grid"


def test_points_and_open_lines_have_no_inside(tmp_path: Path) -> None:
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, _ellipse(40, 30, 20, 12))]}, kind="OPEN_PLANAR")
    assert _reason(rtstruct, grid) == "rtstruct.contours"


@pytest.mark.parametrize("data", [["1", "2", "3", "4"], ["nan"] * 9, ["1e999"] * 9, ["1e200"] * 9])
def test_contours_that_are_no_points_are_refused(tmp_path: Path, data: list[str]) -> None:
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, _ellipse(40, 30, 20, 12))]})
    dataset = pydicom.dcmread(rtstruct)
    with pydicom.config.disable_value_validation():
        dataset.ROIContourSequence[0].ContourSequence[0].ContourData = data
        dataset.save_as(rtstruct)
    assert _reason(rtstruct, grid) == "rtstruct.contours"


def test_regions_in_several_frames_of_reference_are_refused(tmp_path: Path) -> None:
    line = _ellipse(40, 30, 20, 12)
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, line)], "Heart": [(2, line)]})
    dataset = pydicom.dcmread(rtstruct)
    for number, roi in enumerate(dataset.StructureSetROISequence):
        roi.ReferencedFrameOfReferenceUID = made.made_uid("frame", number)
    dataset.save_as(rtstruct)
    assert _reason(rtstruct, grid) == "rtstruct.frames"


def test_an_object_that_is_no_structure_set_is_refused(tmp_path: Path) -> None:
    paths = made.ct_series(tmp_path / "ct")
    assert _reason(paths[0], made.grid_of(paths)) == "reference.kind"


def test_broken_bytes_are_refused_or_read_and_never_crash(tmp_path: Path) -> None:
    rtstruct, grid = _written(tmp_path, {"Liver": [(1, _ellipse(40, 30, 20, 12, 40))]})
    whole, random = rtstruct.read_bytes(), np.random.default_rng(5)
    for _ in range(60):
        broken = bytearray(whole)
        for at in random.integers(128, len(whole), 8):
            broken[at] = random.integers(256)
        rtstruct.write_bytes(broken[: random.integers(200, len(whole))] if random.random() < 0.3 else broken)
        for read in (lambda: read_rtstruct(rtstruct, grid), lambda: read_reference(rtstruct)):
            try:
                read()
            except Refused:
                continue


def test_the_phantom_of_the_corpus_has_the_area_of_its_square_without_its_hole() -> None:
    corpus = os.environ.get("MEDLOOM_TEST_CORPUS")
    if not corpus:
        pytest.skip("needs MEDLOOM_TEST_CORPUS: it names no folder")
    folder = Path(corpus) / "imaging" / "dicom" / "ct_rtstruct_phantom"
    (stack,) = read_series(sorted(folder.glob("ct_*.dcm"))).stacks
    assert isinstance(stack.content, Volume)
    (layer,) = read_rtstruct(folder / "rt.dcm", stack.content)
    _z, y, x = layer.spacing_mm
    # A square of 24 mm; its hole is one of 15 mm without the triangle of 1 mm at a corner.
    assert layer.array.sum() * y * x == pytest.approx(24**2 - (15**2 - 0.5), rel=0.03)
    assert not layer.array[1].any()
