"""Progress as people see it: a bar with rate and time left on a terminal, plain lines where there is none."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bars:
    """Tells the progress of steps on standard error; `quiet` tells nothing."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._pieces, self._done, self._began_s = "", 0, 0, 0.0

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self, what: str, pieces: int) -> None:
        """Work of so many pieces starts."""
        self._what, self._pieces, self._done, self._began_s = what, pieces, 0, time.monotonic()
        if pieces == 0:
            self.console.print(f"{what}: nothing to do", markup=False)
        elif self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task(what, total=pieces, rate="")

    def piece(self, line: str) -> None:
        """One piece is done."""
        self._done += 1
        rate = self._done / max(time.monotonic() - self._began_s, 1e-9)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, rate=f"{rate:.2f}/s")
            self._progress.console.print(f"{self._what}: {line}", markup=False)
            return
        left_s = (self._pieces - self._done) / rate
        tail = f", about {left_s:.0f} s left" if self._done < self._pieces else ""
        self.console.print(f"{self._what} {self._done}/{self._pieces}: {line} ({rate:.2f}/s{tail})", markup=False)

    def end(self) -> None:
        """The work is done, or given up."""
        if self._progress is not None:
            self._progress.stop()
        if self._what and self._done:
            took_s = time.monotonic() - self._began_s
            self.console.print(f"{self._what}: {self._done} done in {took_s:.1f} s", markup=False)
        self._progress, self._task, self._what = None, None, ""
