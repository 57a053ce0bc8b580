"""The commands about streaming: `index`; only they print."""

import json
import sys
from typing import Annotated

import typer

As_json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object; progress goes to stderr.")]


EXAMPLES = (
    "medloom index 's3://bucket/train-{000000..000123}.tar' --to index/train",
    "medloom index tars/ --to index/mine --checksums",
)


def register(app: typer.Typer) -> None:
    """Add the commands to the root command line."""
    app.command(epilog="\n\n".join(("Examples:", *EXAMPLES)))(index)


def index(
    tars: Annotated[
        list[str], typer.Argument(help="Tars, patterns such as URL/train-{000000..000123}.tar, or folders.")
    ],
    to: Annotated[str, typer.Option(help="Folder of the index; the same command again walks only what changed.")],
    checksums: Annotated[
        bool, typer.Option("--checksums", help="Read the contents too: checksums, shapes, chunks of volumes.")
    ] = False,
    as_json: As_json = False,
) -> None:
    """Index anyone's tars by a walk over their headers, so that each sample of them streams as an example."""
    from medloom.schemas.tar_read import TarFile
    from medloom.schemas.tar_set import write_index

    def told(tar: TarFile) -> None:
        print(f"{tar.url}: {tar.samples} samples, {tar.members} members", file=sys.stderr, flush=True)

    found = write_index(tars if len(tars) > 1 else tars[0], to=to, contents=checksums, report=told)
    skipped: dict[str, int] = {}
    for tar in found.tars:
        for what, count in tar.skipped.items():
            skipped[what] = skipped.get(what, 0) + count
    facts = {
        "index": to, "digest": found.digest, "tars": len(found.tars), "samples": found.rows.num_rows,
        "members": found.members.num_rows, "size_bytes": sum(tar.size for tar in found.tars),
        "renamed": found.renamed, "left_out": dict(sorted(skipped.items())),
    }  # fmt: skip
    print(json.dumps(facts) if as_json else _words(facts))


def _words(facts: dict[str, object]) -> str:
    lines = [f"{facts['samples']} samples of {facts['members']} members in {facts['tars']} tars: {facts['index']}"]
    if facts["renamed"]:
        lines.append(f"{facts['renamed']} samples have a key that comes again; they are named with their tar")
    left_out = facts["left_out"]
    assert isinstance(left_out, dict)
    lines += [f"left out: {count} {what}" for what, count in left_out.items()]
    return "\n".join(lines)
