"""The commands `train` and `evaluate`; only they print."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from medloom.schemas.errors import ConfigError

INTERRUPTED = 130  # 128 + SIGINT, as shells count

As_json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object; progress goes to stderr.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the root command line."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)


def train(
    data: Annotated[str, typer.Argument(help="URL of a folder of releases or of a build (its newest release).")],
    to: Annotated[str, typer.Option(help="Folder of the run; train into the same folder again to go on.")],
    config: Annotated[str | None, typer.Option(help="Python file that makes `config = RunConfig(…)`.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all, instead of the config's.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Examples per step, instead of the config's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and order, instead of the config's.")] = None,
    device: Annotated[str | None, typer.Option(help='"auto", "cpu" or "cuda", instead of the config\'s.')] = None,
    as_json: As_json = False,
) -> None:
    """Train a model on a release, or go on with a run; Ctrl-C writes a checkpoint first."""
    from medloom.model.config import load_config

    settings = load_config(config, steps=steps, global_batch=global_batch, seed=seed, device=device)
    with needing_torch():
        from medloom.model.train import train as train_model
    with _Progress(settings.steps, quiet_stdout=as_json) as progress, _interrupts() as interrupted:
        done = train_model(data, to=to, config=settings, report=progress.row, should_stop=interrupted)
    facts = {
        "run": to, "step": done.step, "finished": done.finished, "loss_before": _number(done.loss_before),
        "loss_after": _number(done.loss_after), "wait_share": done.wait_share, "stall": done.stall,
        "truncated": done.truncated,
        "quarantined": list(done.quarantined),
    }  # fmt: skip
    if as_json:
        print(json.dumps(facts))
    else:
        _say_trained(facts, settings.steps)
    if not done.finished:
        raise typer.Exit(INTERRUPTED)


def evaluate(
    run: Annotated[str, typer.Argument(help="Folder of the run; its newest checkpoint is scored.")],
    data: Annotated[str | None, typer.Option(help="Release or build, instead of the one it was trained on.")] = None,
    split: Annotated[str, typer.Option(help='"validation" or "test".')] = "test",
    examples: Annotated[int, typer.Option(help="Examples per task, spread evenly; 0 for all.", min=0)] = 0,
    texts: Annotated[int, typer.Option(help="Open questions per task that are answered.", min=0)] = 64,
    text_bytes: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 128,
    as_json: As_json = False,
) -> None:
    """Score a run on a held-out split: likelihood, closed questions with and without media, texts."""
    with needing_torch():
        from medloom.model.evaluate import Limits
        from medloom.model.evaluate import evaluate as evaluate_run
    limits = Limits(examples=examples, texts=texts, text_bytes=text_bytes)
    with _Progress(0, quiet_stdout=as_json) as progress:
        scores = evaluate_run(run, data=data, split=split, limits=limits, report=progress.count)
    if as_json:
        print(json.dumps(scores))
    else:
        _print_table(scores)


@contextmanager
def needing_torch() -> Iterator[None]:
    """Say which extra to install when an import of the block is missing.

    Raises:
        ConfigError: torch, transformers, matplotlib or sacrebleu is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as fault:
        if (fault.name or "").partition(".")[0] == "medloom":
            raise
        raise ConfigError(
            f'training needs {fault.name}, which is not installed: pip install "medloom[train]"'
        ) from fault


@contextmanager
def _interrupts() -> Iterator[Any]:
    """Give a function that tells whether Ctrl-C was pressed; a second Ctrl-C stops at once."""
    pressed: list[int] = []

    def handle(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)
        print("\nstopping after this step; press again to stop at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


class _Progress:
    """A bar with rate and time left on a terminal, plain lines elsewhere; on stderr when stdout is for JSON."""

    def __init__(self, total: int, *, quiet_stdout: bool):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.total, self.console = total, Console(stderr=quiet_stdout)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._bar.add_task("starting", total=total or None)

    def __enter__(self) -> "_Progress":
        self._bar.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._bar.stop()

    def row(self, row: dict[str, Any]) -> None:
        """Show a row of metrics.jsonl."""
        if "loss" in row:
            line = f"step {row['step']}/{self.total}  loss {row['loss']:.4f}  {row['step_s'] + row['wait_s']:.2f} s"
        else:
            line = f"step {row['step']}/{self.total}  held-out loss {row['held_out_loss']:.4f} ({row['split']})"
        self._show(line, row["step"], self.total)

    def count(self, done: int, of: int) -> None:
        """Show how many of some are done; lines only for every tenth part."""
        self._bar.update(self._task, description="examples", completed=done, total=of)
        if not self.console.is_terminal and (done == of or done % max(of // 10, 1) == 0):
            self.console.print(f"{done} of {of} examples", highlight=False)

    def _show(self, line: str, done: int, of: int) -> None:
        if self.console.is_terminal:
            self._bar.update(self._task, description=line, completed=done, total=of)
        else:
            self.console.print(line, highlight=False, soft_wrap=True)


def _say_trained(facts: dict[str, Any], steps: int) -> None:
    if not facts["finished"]:
        print(f"stopped at step {facts['step']} of {steps}; the same command goes on from there")
        return
    print(
        f"held-out loss {facts['loss_before']:.4f} before and {facts['loss_after']:.4f} after {facts['step']} steps; "
        f"{facts['stall']}"
    )
    if facts["truncated"]:
        print(
            f"{facts['truncated']} examples were cut to the longest length; raise max_bytes or max_media to keep them"
        )
    for refused in facts["quarantined"]:
        print(f"{refused['example_id']} was replaced by {refused['substitute']}: {refused['reason']}")


def _print_table(scores: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = (
        f"release {scores['release']['number']}, {scores['split']}, step {scores['step']} (95 % intervals over groups)"
    )
    table = Table(title=title)
    for heading in ("task", "examples", "groups", "measure", "value", "interval"):
        table.add_column(heading, justify="left" if heading in ("task", "measure") else "right")
    for task, found in scores["tasks"].items():
        head = (task, str(found["examples"]), str(found["groups"]))
        for measure, value in _measures(found):
            interval = f"{value['low']:.3f} … {value['high']:.3f}" if isinstance(value, dict) else ""
            table.add_row(*head, measure, f"{value['value'] if isinstance(value, dict) else value:.3f}", interval)
            head = ("", "", "")
    console = Console()
    console.print(table)
    for fault in scores["unreadable"]:
        console.print(f"not read: {fault}", highlight=False)


def _measures(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if found["nll_per_byte"]:
        yield "nats per byte", found["nll_per_byte"]
    for kind, names in (
        ("closed", ("accuracy", "blind_accuracy", "blind_gap", "majority", "chance")),
        ("open", ("bleu", "chrf")),
    ):
        for name in names:
            if kind in found:
                yield name.replace("_", " "), found[kind][name]
    if found["truncated"]:
        yield "cut to length", found["truncated"]


def _number(value: float) -> float | None:
    return None if value != value else value  # JSON has no NaN
