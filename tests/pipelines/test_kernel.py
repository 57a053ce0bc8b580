"""The compiled kernel gives what matrices of the kernels' definitions give, for every type and view of memory."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own manual's name

from medloom.pipelines.stages.kernel import Memory, compiled, values_on
from medloom.pipelines.stages.label_kernel import labels_on
from medloom.pipelines.stages.taps import KERNELS, Axis, aligned, overlap

SHAPE, SIZES = (9, 45, 70), (13, 20, 33)
STEPS = tuple(n / m for n, m in zip(SHAPE, SIZES, strict=True))
DTYPES = ("int16", "uint16", "uint8", "float32")


def _definition(kind: str, x: float) -> float:
    """The kernels' textbook definitions, one place at a time."""
    x = abs(x)
    if kind == "linear":
        return max(0.0, 1 - x)
    if kind == "cubic":
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0
    if x == 0:
        return 1.0
    return 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2 if x < 3 else 0.0


def _matrix(kind: str, n_old: int, n_new: int, step: float) -> np.ndarray:
    """The whole matrix (new, old) of one axis, edges repeated."""
    matrix = np.zeros((n_new, n_old))
    scale = 1.0 if kind == "linear" else max(step, 1.0)
    margin = int(3 * scale) + 2
    for new in range(n_new):
        centre = (new + 0.5) * step - 0.5
        for old in range(-margin, n_old + margin):
            if kind == "box":
                weight = max(0.0, min(old + 1, (new + 1) * step) - max(old, new * step))
            else:
                weight = _definition(kind, (old - centre) / scale)
            matrix[new, min(max(old, 0), n_old - 1)] += weight
    return matrix / matrix.sum(axis=1, keepdims=True)


def _oracle(array: np.ndarray, kind: str, sizes=SIZES) -> np.ndarray:
    rows = zip(array.shape, sizes, strict=True)
    matrices = [_matrix(kind, n, m, n / m) for n, m in rows]
    mixed = np.einsum("az,by,cx,zyx->abc", *matrices, array.astype(np.float64), optimize=True)
    return mixed.clip(float(array.min()), float(array.max()))


def _made(array: np.ndarray, kind: str, sizes=SIZES) -> np.ndarray:
    along_z, along_y, along_x = (KERNELS[kind](aligned(n, m, n / m)) for n, m in zip(array.shape, sizes, strict=True))
    return values_on(array, (along_z, along_y, along_x), low=float(array.min()), high=float(array.max()))


def _noise(dtype: str, shape=SHAPE) -> np.ndarray:
    generator = np.random.default_rng(5)
    if dtype == "float32":
        return generator.normal(0, 1e4, shape).astype(np.float32)
    info = np.iinfo(dtype)
    return generator.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_the_definitions(dtype, kind):
    array = _noise(dtype)
    made, expected = _made(array, kind), _oracle(array, kind)
    assert made.dtype == array.dtype
    if dtype == "float32":
        assert np.allclose(made, expected, rtol=1e-6, atol=1e-3)
    else:
        assert np.abs(made - expected).max() <= 0.5 + 65536 * 1e-6  # half a level, and the rounding of float32


@pytest.mark.parametrize("sizes", [(1, 1, 1), (9, 45, 70), (40, 3, 5), (2, 200, 17), (3, 7, 300)])
def test_any_size_goes_to_any_other(sizes):
    array = _noise("int16")
    assert np.abs(_made(array, "cubic", sizes) - _oracle(array, "cubic", sizes)).max() < 0.55
    small = _noise("int16", (2, 3, 4))
    assert np.abs(_made(small, "cubic", sizes) - _oracle(small, "cubic", sizes)).max() < 0.55


def _views(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same values in other orders of memory."""
    padded = np.zeros((11, 50, 161), array.dtype)
    padded[1:10, 2:47, 3:143:2] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    shifted = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    shifted[...] = array
    return {
        "flipped x": array[:, :, ::-1].copy()[:, :, ::-1],
        "flipped z and y": array[::-1, ::-1].copy()[::-1, ::-1],
        "all flipped": array[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "z fastest": np.asfortranarray(array),
        "y fastest, x flipped": array[:, :, ::-1].swapaxes(1, 2).copy().swapaxes(1, 2)[:, :, ::-1],
        "part of a larger one": padded[1:10, 2:47, 3:143:2],
        "read-only": read_only,
        "unaligned": shifted,
        "foreign byte order": array.astype(array.dtype.newbyteorder(">")),
    }


@pytest.mark.parametrize("view", sorted(_views(_noise("int16"))))
def test_memory_may_be_ordered_in_any_way_and_the_bytes_stay_the_same(view):
    for dtype in ("int16", "float32"):
        array = _noise(dtype)
        ordered = _views(array)[view]
        assert np.array_equal(ordered, array)
        for sizes in (SIZES, (2, 40, 60)):  # mixed along z last, and first
            assert _made(ordered, "cubic", sizes).tobytes() == _made(array, "cubic", sizes).tobytes()
    labels = np.random.default_rng(2).integers(0, 4, SHAPE).astype(np.uint8)
    axes = [overlap(aligned(n, m, n / m), padded=False) for n, m in zip(SHAPE, SIZES, strict=True)]
    assert np.array_equal(labels_on(_views(labels)[view], (*axes,)), labels_on(labels, (*axes,)))


def test_memory_is_walked_without_a_copy():
    array = np.zeros((40, 50, 60), np.int16)
    for view in (array, array[::-1, ::-1, ::-1], array.transpose(2, 1, 0), array[3:, ::2, :7]):
        assert np.shares_memory(Memory.of(view).flat, array)


def test_linear_is_simpleitks():
    array = _noise("int16", (12, 40, 50))
    sizes = (9, 30, 33)
    image = sitk.GetImageFromArray(array)
    grid = sitk.Image([33, 30, 9], sitk.sitkInt16)
    steps = [50 / 33, 40 / 30, 12 / 9]
    grid.SetSpacing(steps)
    grid.SetOrigin([(step - 1) / 2 for step in steps])
    reference = sitk.GetArrayFromImage(
        sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0, sitk.sitkFloat64)
    )
    assert np.abs(_made(array, "linear", sizes) - reference).max() <= 0.5 + 1e-2
    exact = _made(array.astype(np.float32), "linear", sizes)
    assert np.abs(exact - reference).max() <= 4e-3  # the last bit of float32


@pytest.mark.parametrize("kind", sorted(KERNELS))
def test_a_ramp_stays_a_ramp_away_from_the_edges(kind):
    ramp = np.arange(200, dtype=np.float32)[np.newaxis, np.newaxis, :] * np.ones((3, 3, 1), np.float32)
    made = _made(ramp, kind, (3, 3, 77))[1, 1]
    places = (np.arange(77) + 0.5) * (200 / 77) - 0.5
    limit = {"linear": 1e-4, "cubic": 5e-3, "lanczos3": 6e-2, "box": 0.25}[kind]  # widened kernels are not quite exact
    assert np.abs(made - places)[8:-8].max() < limit


def test_halves_are_rounded_to_even():
    pairs = np.array([[[0, 1, 1, 2, 2, 3, -1, 0, -2, -1] + [0] * 10]], np.int16)
    assert _made(pairs, "box", (1, 1, 10))[0, 0, :5].tolist() == [0, 2, 2, 0, -2]


def test_every_row_of_weights_is_whole():
    for n_old, n_new in ((1, 1), (1, 9), (7, 3), (512, 239), (120, 200)):
        for kind in KERNELS.values():
            taps = kind(aligned(n_old, n_new, n_old / n_new))
            assert np.allclose(taps.weight.sum(axis=1), 1)
            assert (np.diff(taps.start) >= 0).all()
            assert taps.start.min() >= 0
            assert taps.start.max() + taps.weight.shape[1] <= n_old


def test_padded_taps_lack_what_lies_outside():
    taps = overlap(Axis(4, 6, 1.0, -1.5), padded=True)
    assert taps.weight.sum(axis=1).tolist() == [0, 0.5, 1, 1, 1, 0.5]


_ONE_RUN = """
import hashlib, numpy as np
from medloom.pipelines.stages.kernel import values_on
from medloom.pipelines.stages.taps import KERNELS, aligned
array = np.random.default_rng(5).integers(-1024, 3072, (9, 45, 70)).astype(np.int16)
taps = tuple(KERNELS["cubic"](aligned(n, m, n / m)) for n, m in zip(array.shape, (13, 20, 33)))
print(hashlib.sha256(values_on(array, taps, low=-1024, high=3071).tobytes()).hexdigest())
"""


def test_another_process_without_a_cache_gives_the_same_bytes(tmp_path):
    array = np.random.default_rng(5).integers(-1024, 3072, SHAPE).astype(np.int16)
    taps = tuple(KERNELS["cubic"](aligned(n, m, n / m)) for n, m in zip(SHAPE, SIZES, strict=True))
    here = hashlib.sha256(values_on(array, (*taps,), low=-1024, high=3071).tobytes()).hexdigest()
    environment = {
        "PYTHONPATH": ":".join(p for p in sys.path if p),
        "NUMBA_CACHE_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "2",
    }
    there = subprocess.run(
        [sys.executable, "-c", _ONE_RUN], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


def test_where_nothing_can_be_written_code_is_compiled_all_the_same():
    names: dict = {}
    exec("def double(x):\n    return 2 * x\n", names)  # of no file: numba finds no folder for it
    assert compiled(names["double"])(21) == 42
