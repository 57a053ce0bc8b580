"""Progress as people see it: a bar with rate and time left on a terminal, plain lines where there is none."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

SHOWN_S = 0.5  # a rate of less time than this says nothing


class Bars:
    """Tells the progress of steps on standard error; `quiet` tells nothing."""

    def __init__(self, *, quiet: bool = False):
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._what, self._pieces, self._done, self._began_s = "", 0, 0, 0.0

    def __enter__(self) -> "Bars":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(whole=kind is None)

    def begin(self, what: str, pieces: int) -> None:
        """Work of so many pieces starts."""
        self.end()
        self._what, self._pieces, self._done, self._began_s = what, pieces, 0, time.monotonic()
        if pieces == 0:
            self.console.print(f"{what}: nothing to do", markup=False)
        elif self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False), TimeRemainingColumn(), console=self.console,
                transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task(what, total=pieces, rate="")
        else:
            self.console.print(f"{what}: {pieces} to do", markup=False)

    def piece(self, line: str) -> None:
        """One piece is done."""
        self._done += 1
        took_s = time.monotonic() - self._began_s
        rate = f"{self._done / took_s:.2f}/s" if took_s > SHOWN_S else ""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, rate=rate)
            self._progress.console.print(f"{self._what}: {line}", markup=False)
            return
        left = f"about {took_s / self._done * (self._pieces - self._done):.0f} s left"
        told = ", ".join(filter(None, [rate, left])) if self._done < self._pieces and rate else ""
        tail = f" ({told})" if told else ""
        self.console.print(f"{self._what} {self._done}/{self._pieces}: {line}{tail}", markup=False)

    def end(self, *, whole: bool = True) -> None:
        """The work is done, or given up (`whole=False`)."""
        if self._progress is not None:
            self._progress.stop()
        if self._done or (self._pieces and whole):
            took_s = time.monotonic() - self._began_s
            done = f"{self._done}" if whole and self._done == self._pieces else f"{self._done} of {self._pieces}"
            self.console.print(f"{self._what}: {done} done in {took_s:.1f} s", markup=False)
        self._progress, self._task = None, None
        self._what, self._pieces, self._done = "", 0, 0
