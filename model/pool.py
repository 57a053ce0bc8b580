"""Reading ahead: threads that share the tasks of a few steps, or processes that make whole steps; results in order.

Nothing here knows what a step is: `make(step, run)` gives its result, and `run(tasks)` carries out tasks side by side.
"""

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from functools import partial
from typing import Any

from medloom.schemas.errors import MedloomError, RetryLater

Task = Callable[[], Any]
Run = Callable[[Sequence[Task]], None]
Make = Callable[[int, Run | None], Any]  # the result of a step; picklable where processes are asked for
IN_TURN = 2  # steps that are made at once on threads: the second one fills the idle end of the first
_LOOK_S = 0.5  # how often a waiting step looks whether it is still wanted


def here(make: Make, steps: Iterable[int]) -> Iterator[Any]:
    """Give the results of steps, each made when it is asked for."""
    for step in steps:
        yield make(step, None)


def on_threads(
    make: Make, steps: Iterable[int], *, threads: int, ahead: int, depth: Callable[[int], None] = lambda n: None
) -> Iterator[Any]:
    """Give the results of steps in order, up to `ahead` of them made before they are asked for.

    The threads are daemons and stop when the iterator is closed: a store that hangs holds up nobody's exit.

    Args:
        threads: that carry out the tasks of steps.
        depth: told before each result how many are ready.
    """
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    turns: queue.SimpleQueue[tuple[int, Future] | None] = queue.SimpleQueue()

    stopped = threading.Event()

    def run(batch: Sequence[Task]) -> None:
        _run_on(tasks, batch, stopped)

    def coordinate() -> None:
        while (turn := turns.get()) is not None:
            step, future = turn
            if future.set_running_or_notify_cancel():
                _settle(future, partial(make, step, run))

    workers = [threading.Thread(target=_work, args=(tasks,), daemon=True) for _ in range(threads)]
    coordinators = [threading.Thread(target=coordinate, daemon=True) for _ in range(min(IN_TURN, ahead))]
    for thread in (*workers, *coordinators):
        thread.start()
    pending: deque[Future] = deque()
    try:
        waiting = iter(steps)
        while True:
            while len(pending) < ahead and (step := next(waiting, None)) is not None:
                pending.append(Future())
                turns.put((step, pending[-1]))
            if not pending:
                return
            depth(sum(future.done() for future in pending))
            yield pending.popleft().result()
    finally:
        stopped.set()
        for future in pending:
            future.cancel()
        for _ in coordinators:
            turns.put(None)
        for _ in workers:
            tasks.put(None)


def _run_on(tasks: "queue.SimpleQueue[Task | None]", batch: Sequence[Task], stopped: threading.Event) -> None:
    """Carry out tasks on the workers and return when all are done; the first fault is raised then.

    Raises:
        CancelledError: nobody wants the result any more.
    """
    done: list[Future] = []
    for task in batch:
        future: Future = Future()
        done.append(future)
        tasks.put(partial(_settle, future, task))
    for future in done:
        while not wait((future,), timeout=_LOOK_S).done:
            if stopped.is_set():
                raise CancelledError
    for future in done:
        future.result()


def _work(tasks: "queue.SimpleQueue[Task | None]") -> None:
    while (task := tasks.get()) is not None:
        task()


def _settle(future: Future, task: Task) -> None:
    """Carry out a task; whatever it raises belongs to whoever waits for it."""
    try:
        future.set_result(task())
    except BaseException as fault:  # noqa: BLE001 - handed on, nothing is lost
        future.set_exception(fault)


def on_processes(make: Make, steps: Iterable[int], *, processes: int, ahead: int) -> Iterator[Any]:
    """Give the results of steps in order; process k makes every processes-th of them, from the k-th on.

    For transforms that hold the interpreter's lock; results travel as pickles. Processes are spawned, never forked: a
    fork of a process with threads can hang.

    Raises:
        RetryLater: a process died.
    """
    spawn = multiprocessing.get_context("spawn")
    lines, workers = [], []
    for _ in range(processes):
        ours, theirs = spawn.Pipe()
        worker = spawn.Process(target=_serve, args=(theirs, make), daemon=True)
        worker.start()
        theirs.close()
        lines.append(ours)
        workers.append(worker)
    try:
        waiting, asked = enumerate(steps), deque[int]()
        while True:
            while len(asked) < max(ahead, processes) and (turn := next(waiting, None)) is not None:
                number, step = turn
                asked.append(number % processes)
                _say(lines[number % processes], step, workers[number % processes])
            if not asked:
                return
            chosen = asked.popleft()
            yield _heard(lines[chosen], workers[chosen])
    finally:
        for line in lines:
            line.close()
        for worker in workers:
            worker.terminate()
            worker.join()


def _serve(line: Any, make: Make) -> None:
    """Make steps until whoever asks is gone."""
    while True:
        try:
            step = line.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("made", make(step, None))
        except MedloomError as fault:
            answer = ("told", fault)
        except Exception as fault:  # noqa: BLE001 - told to the process that asked, which raises it
            answer = ("failed", f"{type(fault).__name__}: {fault}")
        try:
            line.send(answer)
        except OSError:
            return


def _say(line: Any, step: int, worker: Any) -> None:
    try:
        line.send(step)
    except OSError as fault:
        raise _died(worker) from fault


def _heard(line: Any, worker: Any) -> Any:
    try:
        kind, value = line.recv()
    except (EOFError, OSError) as fault:
        raise _died(worker) from fault
    if kind == "told":
        raise value
    if kind == "failed":
        raise RuntimeError(f"a reading process failed: {value}")
    return value


def _died(worker: Any) -> RetryLater:
    worker.join(5)
    return RetryLater(
        f"a reading process ended by itself (exit code {worker.exitcode}); go on from the last checkpoint, with fewer "
        "workers if memory ran out"
    )
