"""Arena: memory for decoded media, used again once nobody holds a view of it: fresh pages cost as much as a copy.

Whether somebody does is asked of the interpreter: every view of a block, torch's too, counts as a reference to it.
"""

import contextlib
import mmap
import os
import sys
import threading
from collections import deque
from typing import Any, Literal
from weakref import WeakSet

import numpy as np

Pin = Literal["auto", "never"]
SMALLEST = 64 << 10  # bytes; below that malloc hands out memory whose pages are there already
_HUGE = 2 << 20
KEPT = 8 << 30  # bytes kept for another use at most
_FREE = 3  # references to a block that nobody uses: the arena's own, a local name, and the argument of getrefcount


class Arena:
    """Hands out arrays, uninitialised; safe to share between threads.

    Args:
        pin: "auto": memory that a GPU copies from without waiting, where torch is imported and sees one; then torch,
            which knows what is still being copied, decides when memory is used again. It knows that of whole arrays:
            hold a part of one until its copy is done.
        kept_bytes: of memory kept for another use; arrays beyond it are ordinary ones.
    """

    def __init__(self, *, pin: Pin = "auto", kept_bytes: int = KEPT):
        self.pin, self.kept_bytes = pin, kept_bytes
        self._begin()
        _arenas.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[int, deque[np.ndarray]] = {}
        self._held = 0

    def __reduce__(self) -> Any:
        return _arena, (self.pin, self.kept_bytes)

    def take(self, shape: tuple[int, ...], dtype: "np.typing.DTypeLike") -> np.ndarray:
        """Return an array of that shape and dtype, its values undefined."""
        dtype = np.dtype(dtype)
        size = dtype.itemsize
        for n in shape:
            size *= n
        if size < SMALLEST:
            return np.empty(shape, dtype)
        torch = _torch_with_gpu() if self.pin == "auto" else None
        block = _pinned(torch, size) if torch else self._block(size)
        return block[:size].view(dtype).reshape(shape)

    def _block(self, size: int) -> np.ndarray:
        size = rounded(size)
        with self._lock:
            blocks = self._blocks.setdefault(size, deque())
            for _ in range(len(blocks)):
                block = blocks[0]  # the one used longest ago is likeliest free: few are looked at
                blocks.rotate(-1)
                if sys.getrefcount(block) == _FREE:
                    return block
            block = _fresh(size)
            if self._held + size <= self.kept_bytes or self._let_go(size):
                self._held += size
                blocks.append(block)
            return block

    def _let_go(self, size: int) -> bool:
        """Forget unused blocks of other sizes until `size` bytes fit; return whether they do."""
        for have, blocks in self._blocks.items():
            for _ in range(len(blocks)):
                block = blocks.popleft()
                if sys.getrefcount(block) > _FREE - 1:  # one less: it is in no deque now
                    blocks.append(block)
                    continue
                self._held -= have
                if self._held + size <= self.kept_bytes:
                    return True
        return False

    @property
    def held_bytes(self) -> int:
        """Memory that it keeps, in use or not."""
        return self._held


_arenas: WeakSet[Arena] = WeakSet()


def _after_fork() -> None:
    for arena in list(_arenas):
        arena._begin()  # a lock that another thread held at the fork would never be released in the child


os.register_at_fork(after_in_child=_after_fork)


def rounded(size: int) -> int:
    """Return the size of the block for `size` bytes: the next of eight steps per power of two."""
    step = 1 << max(size.bit_length() - 4, 0)
    return -(-size // step) * step


def _fresh(size: int) -> np.ndarray:
    """Return a new block; from 2 MiB on in huge pages, into which the kernel copies a fifth faster."""
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(size, np.uint8)
    memory = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # a fork gets a copy of its own
    first = -np.frombuffer(memory, np.uint8).__array_interface__["data"][0] % _HUGE
    with contextlib.suppress(OSError):  # a kernel built without them: pages are small then
        memory.madvise(mmap.MADV_HUGEPAGE, first, size // _HUGE * _HUGE)
    return np.frombuffer(memory, np.uint8, size, first)  # base of all views of it: their references count


def _arena(pin: Pin, kept_bytes: int) -> Arena:
    return Arena(pin=pin, kept_bytes=kept_bytes)


def _torch_with_gpu() -> Any:
    """Torch, if somebody imported it and it can use a GPU; it is never imported for this."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_available() else None


def _pinned(torch: Any, size: int) -> np.ndarray:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
