"""Guard: hostile files are decoded in a child process, so that a crash, a hang or a bomb costs one refusal.

Parent and child exchange pickled messages over two pipes that nobody else holds; nothing from outside is unpickled.
The child runs without the project's secrets, with one thread per library and a cap on its address space.
"""

import contextlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO, ParamSpec, TypeVar

from medloom.schemas.errors import MedloomError, Refused, RetryLater

P = ParamSpec("P")
T = TypeVar("T")

MEMORY_BYTES = 6 * 2**30
START_TIMEOUT_S = 120.0  # a cold interpreter on a busy machine; not part of any call's own time
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_READY = "ready"
_PIECE = 1 << 20


class GuardBug(Exception):
    """The called function raised something that is neither a result nor a refusal; holds the child's traceback."""


class _Crashed(Exception):
    """The child died, or closed its pipes, before it answered."""


class _TimedOut(Exception):
    """The child did not answer in time."""


class Guard:
    """Calls functions in one child process, which is replaced whenever it crashes, hangs or runs out of memory.

    Use as a context manager, one call at a time (other threads wait). A guard that was forked, or whose child died
    between two calls, starts a child of its own.

    Args:
        memory_bytes: the child's address space (RLIMIT_AS).
    """

    def __init__(self, *, memory_bytes: int = MEMORY_BYTES):
        self.memory_bytes = memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[..., T], *args: Any, timeout_s: float = 60.0) -> T:
        """Return `function(*args)`, run in the child.

        Args:
            function: importable by name from a module (it is pickled by reference).
            args: picklable.
            timeout_s: of each of the two attempts.

        Raises:
            Refused: raised by `function` itself; or "guard.crashed", "guard.timeout", "guard.memory" when the call
                failed so twice.
            GuardBug: `function` raised anything else.
            RetryLater: no child can be started.
        """
        with self._lock:
            reason = ""
            for _ in range(2):
                try:
                    status, value = self._ask((function, args), timeout_s)
                except _TimedOut:
                    reason, detail = "guard.timeout", f"no answer within {timeout_s:g} s, twice"
                except _Crashed as crash:
                    reason, detail = "guard.crashed", f"the decoder {crash}, twice"
                else:
                    if status == "result":
                        return value
                    if status == "refused":
                        raise Refused(*value)
                    if status == "bug":
                        raise GuardBug(value)
                    reason, detail = "guard.memory", f"it needs more than {self.memory_bytes} bytes, twice"
                self._kill()
            raise Refused(reason, detail)

    def close(self) -> None:
        """End the child; a later call starts another."""
        with self._lock:
            self._kill()

    def _ask(self, request: object, timeout_s: float) -> tuple[str, Any]:
        child = self._running()
        deadline = time.monotonic() + timeout_s
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            _send(_Pipe(child.stdin, deadline), request)
            return _loads(_receive_parts(_Pipe(child.stdout, deadline)))
        except (EOFError, BrokenPipeError):
            raise _Crashed(_how_it_ended(child)) from None
        except (KeyboardInterrupt, SystemExit):
            self._kill()  # its answer would be taken for that of the next call
            raise

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._child is not None and self._owner_pid != os.getpid():
            self._child = None  # forked: the child belongs to our parent
        if self._child is not None and self._child.poll() is not None:
            self._kill()
        if self._child is None:
            self._child = _start(self.memory_bytes)
            self._owner_pid = os.getpid()
        return self._child

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child is None or self._owner_pid != os.getpid():
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _start(memory_bytes: int) -> "subprocess.Popen[bytes]":
    """Return a child that has said that it is ready."""
    # Our secrets stay where no hostile file is read.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEDLOOM_")}
    environment |= dict.fromkeys(THREAD_VARIABLES, "1")
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-P", "-m", "medloom.connectors.guard", str(memory_bytes), str(os.getpid())]
    # stderr is dropped: decoders print what they read there, which may identify a person.
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, bufsize=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    os.set_blocking(child.stdin.fileno(), False)
    os.set_blocking(child.stdout.fileno(), False)
    try:
        word = _loads(_receive_parts(_Pipe(child.stdout, time.monotonic() + START_TIMEOUT_S)))
    except (_TimedOut, EOFError) as error:
        child.kill()
        child.wait()
        raise RetryLater(
            f"cannot start a guarded child process: it {_how_it_ended(child)} before it was ready; "
            f"look for a lack of memory, and whether {sys.executable} imports medloom"
        ) from error
    assert word == _READY
    return child


def _how_it_ended(child: "subprocess.Popen[bytes]") -> str:
    try:
        status = child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its pipes"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


class _Pipe:
    """One end of a pipe whose reads and writes respect a deadline (None: wait for ever)."""

    def __init__(self, file: BinaryIO | Any, deadline: float | None):
        self.fd = file.fileno()
        self.deadline = deadline

    def _wait(self, *, writing: bool) -> None:
        if self.deadline is None:
            return
        left = self.deadline - time.monotonic()
        poll = select.poll()  # not select.select, which fails above descriptor 1023
        poll.register(self.fd, select.POLLOUT if writing else select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            raise _TimedOut

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            self._wait(writing=True)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self.fd, view[:_PIECE]) :]

    def read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            self._wait(writing=False)
            with contextlib.suppress(BlockingIOError):
                count = os.readv(self.fd, [view[:_PIECE]])
                if count == 0:
                    raise EOFError
                view = view[count:]
        return data


def _send(pipe: _Pipe, message: object) -> None:
    """Write `message`: count and sizes of its parts, its pickle, then large buffers as they are."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts: list[bytes | memoryview] = [head, *(b.raw() for b in buffers)]
    sizes = [len(memoryview(part).cast("B")) for part in parts]
    pipe.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *sizes))
    for part in parts:
        pipe.write(part)


def _receive_parts(pipe: _Pipe) -> list[bytearray]:
    (count,) = struct.unpack("<Q", pipe.read(8))
    return [pipe.read(size) for size in struct.unpack(f"<{count}Q", pipe.read(8 * count))]


def _loads(parts: list[bytearray]) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])


def main() -> None:
    """Be the child: answer calls from standard input until it closes."""
    memory_bytes, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    _die_with_the_parent(parent_pid)
    with open(os.dup(0), "rb", buffering=0) as questions, open(os.dup(1), "wb", buffering=0) as answers:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)  # decoders print to standard output; the channel is elsewhere now
        _limit(memory_bytes)
        _send(_Pipe(answers, None), _READY)
        while True:
            try:
                parts = _receive_parts(_Pipe(questions, None))
            except EOFError:
                return
            _reply(_Pipe(answers, None), _answer(parts))


def _die_with_the_parent(parent_pid: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise SystemExit("the parent is gone")


def _limit(memory_bytes: int) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a patient's data


def _answer(parts: list[bytearray]) -> tuple[str, Any]:
    """Run one call and return what became of it."""
    try:
        function, args = _loads(parts)
        return "result", function(*args)
    except Refused as refused:
        return "refused", (refused.reason, refused.detail)
    except MemoryError:
        return "memory", None
    except Exception as error:  # noqa: BLE001  anything else is a bug and goes to the parent with its traceback
        return "bug", _traceback(error)


def _traceback(error: Exception) -> str:
    """Return where `error` was raised and its class; its message only when it is one of our own errors.

    Others quote what they read: pydicom's messages hold header bytes, `int()` the text, which may name a person.
    """
    is_ours = isinstance(error, MedloomError)
    message = f": {error}" if is_ours else " (its message is withheld: it may quote the file)"
    places = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    return f"Traceback (most recent call last):\n{places}{type(error).__name__}{message}"


def _reply(pipe: _Pipe, answer: tuple[str, Any]) -> None:
    try:
        _send(pipe, answer)
    except MemoryError:
        _send(pipe, ("memory", None))
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        _send(pipe, ("bug", _traceback(error)))


if __name__ == "__main__":
    main()
