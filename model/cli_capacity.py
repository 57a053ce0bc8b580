"""The command `capacity`: what a run will ask of its stores and machines, before anything is bought or built."""

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer

from medloom.model.meter import readable_size
from medloom.schemas.errors import ConfigError, GateError

PREFIX_REQUESTS_PER_S = 5_500  # GETs that Amazon S3 serves per second and prefix, its documentation says


EXAMPLES = (
    "medloom capacity --ranks 1024 --workers 8 --examples 1000000000",
    "medloom capacity out/releases --ranks 8 --global-batch 64 --step-s 0.5",
)


def register(app: typer.Typer) -> None:
    """Add the command to the root command line."""
    app.command(epilog="\n\n".join(("Examples:", *EXAMPLES)))(capacity)


def capacity(
    data: Annotated[str, typer.Argument(help="A release to plan for; without one, the options below.")] = "",
    ranks: Annotated[int, typer.Option(help="Processes that train.", min=1)] = 1024,
    workers: Annotated[int, typer.Option(help="Readers of each.", min=1)] = 8,
    global_batch: Annotated[int, typer.Option(help="Examples per step over all ranks.", min=1)] = 8192,
    step_s: Annotated[float, typer.Option(help="Time of a step in seconds.")] = 1.0,
    examples: Annotated[int, typer.Option(help="Examples of an epoch.", min=1)] = 1_000_000_000,
    shards: Annotated[int, typer.Option(help="Tars they stand in.", min=1)] = 10_000,
    volume: Annotated[str, typer.Option(help="Voxels of a volume, Z x Y x X.")] = "140x512x512",
    patch: Annotated[str, typer.Option(help='Patch that is read of it, "" for all.')] = "96x96x96",
    chunk: Annotated[str, typer.Option(help="Chunk in which it is stored.")] = "32x128x128",
    ratio: Annotated[float, typer.Option(help="Raw bytes against stored ones.")] = 3.29,
    picture_kb: Annotated[float, typer.Option(help="Stored kB of an example of pictures, instead of a volume.")] = 0.0,
    shuffle: Annotated[str, typer.Option(help='"global" or "window:N" (N shards).')] = "global",
    seed: Annotated[int, typer.Option(help="Decides the order.")] = 0,
    latency_ms: Annotated[float, typer.Option(help="Of a request to the store.")] = 30.0,
    prefetch: Annotated[int, typer.Option(help="Steps that are read ahead.", min=1)] = 3,
    every_position: Annotated[
        bool, typer.Option("--every-position", help="Compare all rows of the epoch, not a million.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Plan a run: who reads what, how well it is mixed, requests, bytes, cores and memory; no media are read."""
    from medloom.model import capacity as planning
    from medloom.model.costs import picture_cost
    from medloom.model.segment import window_of

    if data:
        examples, shards, cost = _of_release(data, ranks=ranks, global_batch=global_batch)
    elif picture_kb:
        cost = picture_cost(picture_kb * 1e3)
    else:
        cost = _of_volume(volume, patch=patch, chunk=chunk, ratio=ratio)
    job = planning.Job(examples, shards, ranks, workers, global_batch)
    order = planning.order_of(job, seed=seed, window=window_of(shuffle))
    covered = planning.coverage(job, order, every_position=every_position)
    mixed = planning.mixing(job, order)
    asked = planning.traffic(job, cost, step_s=step_s, latency_s=latency_ms / 1e3, ahead=prefetch)
    if as_json:
        told = {"coverage": covered, "mixing": mixed, "traffic": asked, "job": job, "cost": cost}
        print(json.dumps({name: asdict(value) for name, value in told.items()} | {"mixing_share": mixed.share}))
    else:
        for line in _lines(job, cost, covered, mixed, asked, step_s):
            print(line)
    if covered.missed or covered.repeated_draws or covered.repeated_rows:
        raise GateError(
            f"the order does not cover the epoch: {covered.missed} draws without a reader, {covered.repeated_draws} "
            f"with several, {covered.repeated_rows} rows twice; this is a bug of MedLoom"
        )


def _lines(job: Any, cost: Any, covered: Any, mixed: Any, asked: Any, step_s: float) -> list[str]:
    low, high = covered.reader_draws
    prefixes = -(-asked.requests_per_s // PREFIX_REQUESTS_PER_S)
    return [
        f"{job.examples:,} examples in {job.shards:,} shards, {job.ranks:,} ranks x {job.workers:,} workers, "
        f"{job.global_batch:,} examples a step",
        f"coverage    {covered.steps:,} steps an epoch; each of {covered.readers:,} readers has {low:,} to {high:,} "
        f"draws, {covered.missed + covered.repeated_draws} draws have none or several",
        f"            rows of {covered.looked_at:,} draws compared: {covered.repeated_rows} come twice "
        f"({covered.expected_if_random:,.0f} would if draws were independent)",
        f"mixing      {mixed.distinct:.2f} shards among 32 examples, {mixed.share:.4f} of uniform; those of a shard "
        f"come over {min(mixed.spread, 1):.2%} of the epoch",
        f"an example  {cost.requests:.1f} requests, {readable_size(cost.fetched_bytes)} read, "
        f"{readable_size(cost.decoded_bytes)} decoded, {readable_size(cost.kept_bytes)} kept",
        f"all ranks   {asked.requests_per_s:,.0f} requests/s, {readable_size(asked.bytes_per_s)}/s "
        f"({asked.bytes_per_s * 8 / 1e9:,.1f} Gbit/s) at {step_s:g} s a step; {prefixes:,.0f} prefixes of a store that "
        f"serves {PREFIX_REQUESTS_PER_S:,} requests/s of each",
        f"a rank      {asked.rank_requests_per_s:,.1f} requests/s, {readable_size(asked.rank_bytes_per_s)}/s, "
        f"{asked.in_flight:,.1f} requests open at a time, {asked.rank_cores:.2f} cores to decode, "
        f"{readable_size(asked.rank_memory_bytes)} of batches",
        f"an epoch    {asked.epoch_s / 3600:,.2f} hours, {readable_size(asked.rank_epoch_bytes)} a rank",
    ]


def _of_volume(volume: str, *, patch: str, chunk: str, ratio: float) -> Any:
    from medloom.model.costs import volume_cost

    if ratio <= 0:
        raise ConfigError(f"--ratio {ratio} must be positive")
    sizes = {"volume": volume, "chunk": chunk} | ({"patch": patch} if patch else {})
    shape = {name: _shape(name, text) for name, text in sizes.items()}
    return volume_cost(shape["volume"], patch=shape.get("patch", ()), chunk=shape["chunk"], ratio=ratio)


def _of_release(data: str, *, ranks: int, global_batch: int) -> tuple[int, int, Any]:
    """Examples of the train split, how many shards they stand in, and what one of them costs."""
    from medloom.model.costs import release_cost
    from medloom.model.rows import live_rows
    from medloom.schemas.release import Release
    from medloom.schemas.release_index import has_index

    release = Release(data)
    if not has_index(release):
        raise ConfigError(
            f"release {release.number} of {release.url} has no index; `medloom release` makes one that has"
        )
    rows = live_rows(release, split="train")
    parts = release.rows.select(["build", "part"]).take(rows).to_pylist()
    shards = {(row["build"], row["part"].rpartition("part-")[2]) for row in parts}
    return len(rows), len(shards), release_cost(release, rows, together=-(-global_batch // ranks))


def _shape(name: str, text: str) -> tuple[int, ...]:
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) != 3 or not all(side.strip().isdecimal() and int(side) for side in sides):
        raise ConfigError(f"--{name} {text!r} is not ZxYxX, as 96x96x96")
    return tuple(int(side) for side in sides)
