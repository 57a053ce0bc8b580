"""Memory is used again when nobody looks at it any more, and never before."""

import gc
import os
import pickle
import signal
import threading

import numpy as np
import pytest

from medloom.model import arena as arenas
from medloom.model.arena import SMALLEST, Arena, rounded

BIG = (SMALLEST,)


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_used_again():
    arena = Arena()
    first = arena.take((64, 64, 64), np.int16)
    where = address(first)
    del first
    again = arena.take((2, 256, 512), np.uint16)  # as many bytes, another shape and dtype
    assert address(again) == where
    assert (again.shape, again.dtype) == ((2, 256, 512), np.uint16)


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a[5:],
        lambda a: a.reshape(2, -1).T[3:],
        lambda a: a.view(np.int8)[::7],
        lambda a: memoryview(a),
        lambda a: np.frombuffer(a.data, np.uint8),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 3),
    ],
)
@pytest.mark.parametrize("size", [SMALLEST, (4 << 20) + 4096])  # in ordinary pages, in huge ones
def test_memory_of_which_any_view_is_held_is_not_used_again(hold, size):
    arena, asked = Arena(), (size,)
    first = arena.take(asked, np.uint8)
    first[:] = 7
    held, where = hold(first), address(first)
    del first
    gc.collect()
    others = [arena.take(asked, np.uint8) for _ in range(3)]
    for other in others:
        other[:] = 1
    assert where not in {address(other) for other in others}
    assert not (np.asarray(held) == 1).any()
    del held, other, others
    assert where in {address(array) for array in [arena.take(asked, np.uint8) for _ in range(8)]}


def test_a_tensor_of_it_counts_as_a_view():
    torch = pytest.importorskip("torch")
    arena = Arena(pin="never")
    tensor = torch.from_numpy(arena.take(BIG, np.uint8))[10:]
    tensor.fill_(7)
    arena.take(BIG, np.uint8)[:] = 1
    assert bool((tensor == 7).all())
    where = tensor.data_ptr() - 10
    del tensor
    assert where in {address(array) for array in [arena.take(BIG, np.uint8) for _ in range(2)]}


def test_two_arrays_at_once_never_share_memory_whatever_the_threads():
    arena, wrong = Arena(), []

    def use(number: int) -> None:
        for trial in range(200):
            held = [arena.take((SMALLEST + 4096 * (trial % 3),), np.uint8) for _ in range(3)]
            for place, array in enumerate(held):
                array[:] = number * 3 + place
            if any((array != number * 3 + place).any() for place, array in enumerate(held)):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert arena.held_bytes <= 4 * 3 * 3 * rounded(SMALLEST + 8192)


def test_it_keeps_no_more_than_it_may_and_gives_all_that_is_asked():
    arena = Arena(kept_bytes=3 * SMALLEST)
    held = [arena.take(BIG, np.uint8) for _ in range(8)]
    assert len({address(array) for array in held}) == 8
    assert arena.held_bytes <= 3 * SMALLEST
    held.clear()
    larger = arena.take((2 * SMALLEST,), np.uint8)  # takes the place of what nobody uses
    assert larger.size == 2 * SMALLEST
    assert arena.held_bytes <= 3 * SMALLEST
    where = address(larger)
    del larger
    assert address(arena.take((2 * SMALLEST,), np.uint8)) == where


def test_small_arrays_are_ordinary_ones():
    arena = Arena()
    arena.take((10,), np.float32)
    assert arena.take((), np.int16).shape == ()
    assert arena.take((0, 5), np.int16).size == 0
    assert arena.held_bytes == 0


def test_a_block_wastes_an_eighth_at_most():
    for size in (*range(SMALLEST, SMALLEST + 9000, 701), 10**6, 2**30, 2**30 + 1):
        assert size <= rounded(size) <= size * 1.125


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("size", [SMALLEST, 4 << 20])
def test_a_forked_process_writes_into_memory_of_its_own(size):
    arena = Arena()
    block = arena.take((size,), np.uint8)
    block[:] = 7
    child = os.fork()
    if not child:
        block[:] = 1
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (block == 7).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_while_another_thread_takes_memory_takes_some_too():
    arena = Arena()
    with arena._lock:  # as another thread holds it at the fork
        child = os.fork()
        if not child:
            signal.alarm(20)
            arena.take((SMALLEST,), np.uint8)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("size", [2 << 20, (4 << 20) + 128, (7 << 20) - 1])
def test_large_blocks_begin_at_a_huge_page_and_hold_all_that_is_asked(size):
    array = Arena().take((size,), np.uint8)
    array[:] = 3
    assert address(array) % (2 << 20) == 0
    assert array.nbytes == size
    assert array.flags.writeable


def test_it_travels_without_its_memory():
    arena = Arena(pin="never", kept_bytes=12345)
    arena.take(BIG, np.uint8)
    other = pickle.loads(pickle.dumps(arena))
    assert (other.pin, other.kept_bytes, other.held_bytes) == ("never", 12345, 0)


def test_it_asks_torch_for_nothing_where_torch_has_no_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(arenas, "_pinned", lambda *a: pytest.fail("asked for pinned memory"))
    assert Arena(pin="auto").take(BIG, np.uint8).shape == BIG


def test_with_a_gpu_its_memory_is_pinned():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    array = Arena(pin="auto").take(BIG, np.uint8)
    assert torch.from_numpy(array[100:]).is_pinned()
    assert not torch.from_numpy(Arena(pin="never").take(BIG, np.uint8)).is_pinned()
