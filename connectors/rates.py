"""Rates: how often each host may be asked, kept by every process that shares a folder, however many there are."""

import ipaddress
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from medloom.connectors.settings import ncbi_key, rates_folder
from medloom.schemas.errors import ConfigError, RetryLater

# Requests per second that a host tolerates; a name that starts with a dot stands for all hosts that end so.
EUTILS = "eutils.ncbi.nlm.nih.gov"
PER_SECOND: dict[str, float] = {
    EUTILS: 3.0,  # 10 with an API key
    "pmc.ncbi.nlm.nih.gov": 3.0,
    "www.ncbi.nlm.nih.gov": 3.0,
    "www.ebi.ac.uk": 5.0,  # about 10 are tolerated, without a word that says so
    ".amazonaws.com": 100.0,
}
EUTILS_WITH_KEY = 10.0
OTHERS = 5.0
# A late request moves towards the next one: with 10 % more room, requests up to 100 ms late still leave no second
# with more of them than the host allows. Who wakes up later than `LATE_S` queues again.
ROOM = 1.1
LATE_S = 0.03
LATE_TIMES = 5  # then the machine is so busy that it asks seldom enough
LONGEST_HOLD_S = 3600.0  # what a host asks for beyond this is taken for a mistake
CLOCK_STEP_S = 60.0  # a clock that is further behind the last writer's was set back; less is another machine's


class Rates:
    """One queue per host, shared through small locked files: each request takes the next free moment.

    Args:
        folder: where the files lie; None: `MEDLOOM_RATES` (a folder that all machines of a cluster see), else a folder
            of this user on this machine.
        per_second: other rates by host ("127.0.0.1:8080" with a port that is not the scheme's own).
    """

    def __init__(self, folder: Path | None = None, *, per_second: Mapping[str, float] | None = None):
        self.folder = Path(folder or rates_folder())
        self._told = dict(per_second or {})
        self._eutils = EUTILS_WITH_KEY if ncbi_key() else PER_SECOND[EUTILS]

    def per_second(self, host: str) -> float:
        """Return how many requests a second `host` may be asked; infinite for this machine's loopback."""
        if host in self._told:
            return self._told[host]
        name = host.rsplit(":", 1)[0] if re.search(r":\d+$", host) else host
        if name == EUTILS:
            return self._eutils
        if is_loopback(name):
            return math.inf
        ending = next((known for known in PER_SECOND if known.startswith(".") and name.endswith(known)), "")
        return PER_SECOND.get(name, PER_SECOND.get(ending, OTHERS))

    def wait(self, host: str, *, longest_hold_s: float = math.inf) -> None:
        """Return when this process may ask `host` once.

        Raises:
            RetryLater: the host asked all to hold back, for more than `longest_hold_s` from now.
            ConfigError: the folder cannot be written.
        """
        for _ in range(LATE_TIMES):
            at = self._turn(host, longest_hold_s)
            time.sleep(max(0.0, at - time.time()))
            if time.time() - at < LATE_S or math.isinf(self.per_second(host)):
                return

    def _turn(self, host: str, longest_hold_s: float) -> float:
        """Return the next free moment of a host, in seconds since the epoch, which nobody else will get."""
        with self._queue(host) as queue:
            held_s = queue.held_until - queue.now
            if held_s > longest_hold_s:
                raise RetryLater(
                    f"{host} asks not to be asked for another {held_s:.0f} s; run the same command again then: what "
                    "was fetched is kept"
                )
            at = max(queue.now, queue.free_at, queue.held_until)
            rate = self.per_second(host)
            if math.isfinite(rate):
                queue.free_at = at + ROOM / rate
            return at

    def hold(self, host: str, seconds: float) -> None:
        """Let nobody who shares the folder ask `host` for so many seconds, at most `LONGEST_HOLD_S`."""
        with self._queue(host) as queue:
            queue.held_until = max(queue.held_until, queue.now + min(max(seconds, 0.0), LONGEST_HOLD_S))

    @contextmanager
    def _queue(self, host: str) -> Iterator["_Queue"]:
        """Give the state of a host while nobody else may change it; what the block changes is written."""
        name = re.sub(r"[^a-z0-9.-]", "_", host.lower())[:100]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(self.folder / f"{name}.lock", poll_interval=0.005):
                queue = _Queue.read(self.folder / f"{name}.json")
                before = (queue.free_at, queue.held_until)
                yield queue
                if (queue.free_at, queue.held_until) != before:
                    queue.write(self.folder / f"{name}.json")
        except OSError as fault:
            raise ConfigError(
                f"cannot share request rates through {self.folder}: {fault.strerror}; name a folder that you may write "
                "to in MEDLOOM_RATES"
            ) from fault


@dataclass
class _Queue:
    """What all know of one host, in seconds since the epoch: when it is free, until when it asked to be left alone."""

    now: float
    free_at: float = 0.0
    held_until: float = 0.0

    @classmethod
    def read(cls, path: Path) -> "_Queue":
        now = time.time()
        try:
            kept = json.loads(path.read_text())
            free_at, held_until, at = (float(kept[name]) for name in ("free_at", "held_until", "at"))
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or its writer was killed
            return cls(now)
        back_s = at - now if at - now > CLOCK_STEP_S else 0.0
        return cls(now, free_at - back_s, min(held_until - back_s, now + LONGEST_HOLD_S))

    def write(self, path: Path) -> None:
        """Write as many bytes each time, at once, so that a reader after a killed writer finds the old or the new."""
        said = {"free_at": round(self.free_at, 6), "held_until": round(self.held_until, 6), "at": round(self.now, 6)}
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, json.dumps(said).ljust(120).encode())
        finally:
            os.close(file)


def is_loopback(host: str) -> bool:
    """Whether a host (without its port) is this machine's loopback: 127.0.0.0/8, ::1, localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
