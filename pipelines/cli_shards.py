"""The commands that add to a build or turn it into other files: `tokens`, `transcode`, `extras`."""

from dataclasses import asdict
from typing import Annotated

import typer

from medloom.pipelines.options import Json, answer
from medloom.schemas.errors import ConfigError

Out = Annotated[str, typer.Argument(metavar="BUILD", help="Folder or URL of the build.")]

EXAMPLES = {
    "tokens": (
        "medloom tokens out/papers",
        "medloom tokens out/papers --tokenizer HuggingFaceTB/SmolLM2-135M",
    ),
    "transcode": (
        "medloom transcode out/scans --to nii.gz out/nifti",
        "medloom transcode out/scans --to npy.zst out/arrays",
    ),
    "extras": (
        "medloom extras out/papers --wids",
        "medloom extras out/releases --wids --energon",
    ),
}


def register(app: typer.Typer) -> None:
    """Add the commands to the root command line."""
    for command in (tokens, transcode, extras):
        app.command(epilog="\n\n".join(("Examples:", *EXAMPLES[command.__name__])))(command)


def tokens(
    out: Out,
    tokenizer: Annotated[str, typer.Option(help="bytes, or the folder or name of a Hugging Face one.")] = "bytes",
    as_json: Json = False,
) -> None:
    """Count the tokens of every example, so that streams can pack; only what changed is counted again."""
    from medloom.pipelines.report import amount
    from medloom.pipelines.tokens import count_tokens

    done = count_tokens(out, tokenizer)
    line = (
        f"{done.folder}: {amount(done.rows, 'example')}, {done.tokens:,} tokens, the longest {done.longest:,}, "
        f"{done.media:,} places of media; {amount(done.parts, 'part')} counted, {done.up_to_date:,} up to date"
    )
    answer(asdict(done), line, as_json=as_json)


def transcode(
    out: Out,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the files go; run again, it goes on.")],
    to: Annotated[str, typer.Option("--to", help="nii.gz, or npy.zst.")] = "",
    split: Annotated[str, typer.Option(help="Only this split, such as train; all of them without it.")] = "",
    as_json: Json = False,
) -> None:
    """Write every volume and mask of a build as a file of its own, voxel for voxel, with a table that names them."""
    from medloom.pipelines.report import amount
    from medloom.pipelines.transcode import FORMATS
    from medloom.pipelines.transcode import transcode as run

    if to not in FORMATS:
        raise ConfigError(f"medloom transcode needs --to {' or --to '.join(FORMATS)}")
    done = run(out, folder, to, split=split)
    line = (
        f"{folder}: {amount(done.written, 'file')} written, {done.up_to_date:,} stood already, "
        f"{done.refused:,} refused; {done.size_bytes / 1e6:,.1f} MB in all"
    )
    answer(asdict(done), line, as_json=as_json)


def extras(
    url: Annotated[str, typer.Argument(metavar="BUILD|RELEASE", help="Folder or URL of a build, or of its releases.")],
    wids: Annotated[bool, typer.Option("--wids", help="Lists of tars for webdataset's wids.")] = False,
    energon: Annotated[bool, typer.Option("--energon", help="Data sets of Megatron-Energon, one per layout.")] = False,
    as_json: Json = False,
) -> None:
    """Write what other loaders want beside plain tars, without reading a tar; made again after a build changes."""
    from medloom.pipelines.report import amount
    from medloom.pipelines.shard_extras import write_extras

    done = write_extras(url, wids=wids, energon=energon)
    line = f"{url}: {amount(len(done.files), 'file')} about {amount(done.tars, 'tar')}; {done.written:,} written now"
    answer(asdict(done), line, as_json=as_json)
