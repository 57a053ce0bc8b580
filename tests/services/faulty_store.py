"""A folder served over loopback HTTP as a store of objects, ranges and listings included, with faults laid over it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

from tests.services.loopback import Asked, Fault, Reply, give_object, loopback, s3_error, slow


@dataclass
class FaultyStore:
    """A running store.

    Attributes:
        folder: what it serves, read anew at every request.
        url: where it is.
        asked: path and range of every GET, in order of arrival.
        serves_ranges: if not, every GET gets the whole file, as plain web servers give it.
        heads_too: whether HEADs meet faults as GETs do.
    """

    folder: Path
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    serves_ranges: bool = True
    heads_too: bool = False
    _faults: list[tuple[str, Fault, list[int]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _released: threading.Event = field(default_factory=threading.Event)

    def meet(self, pattern: str, fault: Fault, *, times: int = 1 << 30) -> None:
        """Let the next `times` GETs of paths like `pattern` meet a fault; those told of first come first."""
        with self._lock:
            self._faults.append((pattern, fault, [times]))

    def mend(self) -> None:
        """Take all faults away, and answer whoever waits."""
        with self._lock:
            self._faults.clear()
        self._released.set()
        self._released = threading.Event()

    def stalled(self, reply: Reply) -> Reply:
        """As a fault: give no answer until `mend`."""
        self._released.wait()
        return reply

    @staticmethod
    def silent_midway(reply: Reply) -> Reply:
        """As a fault: send the headers, and then nothing."""
        return slow(600)(reply)

    def answer(self, asked: Asked) -> Reply:
        path = asked.path.strip("/")
        reply = self._give(path, asked)
        if asked.method != "GET" and not self.heads_too:
            return reply
        with self._lock:
            if asked.method == "GET":
                self.asked.append((path, asked.headers.get("range", "")))
            fault = self._next(path)
        if fault is None or isinstance(fault, Reply):
            return fault or reply
        return fault(reply)

    def _next(self, path: str) -> Fault | None:
        for pattern, fault, left in self._faults:
            if left[0] and fnmatch(path, pattern):
                left[0] -= 1
                return fault
        return None

    def _give(self, path: str, asked: Asked) -> Reply:
        at = self.folder / path
        if at.is_dir():
            links = [f'<a href="{entry.name}{"/" * entry.is_dir()}">' for entry in sorted(at.iterdir())]
            return Reply(200, "\n".join(links).encode(), {"Content-Type": "text/html"})
        if not at.is_file():
            return s3_error(404, "NoSuchKey")
        headers = asked.headers if self.serves_ranges else {}
        return give_object({path: at.read_bytes()}, replace(asked, path=path, headers=headers))


@contextmanager
def faulty_store(folder: str | Path) -> Iterator[FaultyStore]:
    """Serve a folder until the block ends."""
    store = FaultyStore(Path(folder))
    with loopback(store.answer) as server:
        store.url = server.url
        try:
            yield store
        finally:
            store.mend()
