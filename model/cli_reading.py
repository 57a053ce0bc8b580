"""The command `stream`: read a data set as training would, and tell how fast it came and what held it up."""

import json
import time
from typing import Annotated, Any

import typer

from medloom.schemas.errors import ConfigError

EXAMPLES = (
    "medloom stream out/demo",
    "medloom stream out/scans --roi 96x96x96 --workers 2 --prometheus",
    "medloom stream 's3://bucket/train-{000000..000012}.tar' --cache /tmp/tars",
)


def register(app: typer.Typer) -> None:
    """Add the command to the root command line."""
    app.command(epilog="\n\n".join(("Examples:", *EXAMPLES)))(stream)


def stream(
    data: Annotated[list[str], typer.Argument(help="A release, a build, a folder or pattern of tars, or tars.")],
    steps: Annotated[int, typer.Option(help="Global batches to read; 0 for an epoch.", min=0)] = 20,
    global_batch: Annotated[int, typer.Option(help="Examples (packs, with --pack-tokens) per step.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Decides the order.")] = 0,
    workers: Annotated[int, typer.Option(help="Threads that read ahead; 0 reads when asked.", min=0)] = 2,
    split: Annotated[str, typer.Option(help='"train", "validation" or "test".')] = "train",
    mix: Annotated[str, typer.Option(help="Weights by source: pmc=2,scans=1.")] = "",
    where: Annotated[str, typer.Option(help="Conditions on columns: task=caption,modalities=CT|MR.")] = "",
    roi: Annotated[str, typer.Option(help="Patch of volumes in voxels, Z x Y x X: 96x96x96.")] = "",
    pack_tokens: Annotated[int, typer.Option(help="Longest pack in tokens; 0 does not pack.", min=0)] = 0,
    tokenizer: Annotated[str, typer.Option(help="Whose lengths packing uses (`medloom tokens`).")] = "bytes",
    buckets: Annotated[str, typer.Option(help='What a batch has in common: "dimension", "shape" or "none".')] = (
        "dimension"
    ),
    shuffle: Annotated[str, typer.Option(help='"global" or "window:N" (N shards).')] = "global",
    cache: Annotated[str, typer.Option(help="Folder for what is read from remote stores.")] = "",
    keys: Annotated[bool, typer.Option("--keys", help="Print each step's example ids; read no media.")] = False,
    prometheus: Annotated[bool, typer.Option("--prometheus", help="Print the counters as Prometheus text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Stream a data set without training: what each step holds, how fast it comes, which stage is slow."""
    from medloom.model.stream import ShardStream

    made = ShardStream(
        data[0] if len(data) == 1 else data, seed=seed, global_batch=global_batch, workers=0 if keys else workers,
        split=split, mix=_weights(mix), where=_conditions(where), roi=_size(roi), pack_tokens=pack_tokens or None,
        tokenizer=tokenizer, buckets=None if buckets == "none" else buckets, shuffle=shuffle, cache=cache,
    )  # fmt: skip
    wanted = steps or len(made)
    if keys:
        for step in range(wanted):
            print(
                json.dumps({"step": step, "keys": made.at(step)}) if as_json else f"{step}  {' '.join(made.at(step))}"
            )
        return
    told = _read(made, wanted, show=not (as_json or prometheus))
    if prometheus:
        print(made.meter.prometheus(), end="")
    elif as_json:
        print(json.dumps(told))
    else:
        rate = f"{told['examples_per_s']:.1f} examples/s" if told["examples_per_s"] else "no example"
        print(f"{told['steps']} steps, {told['examples']} examples, {rate}; {len(made)} steps make an epoch")
        print(f"{told['verdict']} (nothing trains here, so nearly all of the time is waiting)")
        for refused in made.quarantined:
            print(f"{refused['example_id']} was replaced by {refused['substitute'] or 'nothing'}: {refused['reason']}")


def _read(made: Any, steps: int, *, show: bool) -> dict[str, Any]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    examples, done, began = 0, 0, time.perf_counter()
    with Live(Text("reading"), console=console, transient=True, auto_refresh=show and console.is_terminal) as live:
        while done < steps:
            for batch in made:
                examples, done = examples + len(batch.examples), done + 1
                if show and console.is_terminal:
                    live.update(Text(f"step {done}/{steps}  {batch.lane}  {made.meter.line()}"))
                if done == steps:
                    break
    took = time.perf_counter() - began
    return {
        "steps": done, "examples": examples, "seconds": took, "examples_per_s": examples / took if took else None,
        "steps_per_epoch": len(made), "quarantined": made.quarantined, **made.meter.snapshot(),
        "verdict": made.meter.verdict(None),
    }  # fmt: skip


def _weights(text: str) -> dict[str, float] | None:
    try:
        return {name: float(weight) for name, _, weight in (part.partition("=") for part in text.split(",") if part)}
    except ValueError as fault:
        raise ConfigError(f"--mix {text!r} is not source=weight[,source=weight]") from fault


def _conditions(text: str) -> dict[str, Any]:
    parts = [part.partition("=") for part in text.split(",") if part]
    if not all(name and value for name, _, value in parts):
        raise ConfigError(f"--where {text!r} is not column=value[|value][,column=value]")
    return {name: value.split("|") if "|" in value else value for name, _, value in parts}


def _size(text: str) -> tuple[int, int, int] | None:
    if not text:
        return None
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdigit() and int(side) for side in sides):
        raise ConfigError(f"--roi {text!r} is not ZxYxX in voxels, such as 96x96x96")
    z, y, x = map(int, sides)
    return z, y, x
