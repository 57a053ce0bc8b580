"""Lint of token counts: that each part stands beside the rows that it counts, row by row, and counts them right."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.quality.finding import Finding, few
from medloom.schemas.build import Build
from medloom.schemas.tables import TOKENS
from medloom.schemas.token_counts import BYTES, FOLDER, count, utf8_lengths


def token_parts(build: Build) -> Iterator[tuple[str, str, str]]:
    """Give tokenizer, path of the counts and path of the examples that they count, for all that is in `tokens/`."""
    store = build.store
    for tokenizer in store.folders(FOLDER):
        for task in store.folders(f"{FOLDER}/{tokenizer}"):
            for print_ in store.folders(f"{FOLDER}/{tokenizer}/{task}"):
                for name in store.names(f"{FOLDER}/{tokenizer}/{task}/{print_}"):
                    tail = f"{task}/{print_}/{name}"
                    yield tokenizer, f"{FOLDER}/{tokenizer}/{tail}", f"examples/{tail}"


def lint_tokens(build: Build) -> Iterator[Finding]:
    """Give what is wrong with the token counts of a build; those of `BYTES` are counted again, of others the media."""
    listed: dict[str, Any] = build.manifest()["files"]
    tokenizers = set()
    for tokenizer, path, examples in token_parts(build):
        tokenizers.add(tokenizer)
        mend = _mend(tokenizer)
        if not build.store.exists(examples):
            yield Finding(path, "tokens.stray", f"there is no {examples}", mend)
            continue
        try:
            rows = build.store.read_table(examples, ["example_id", "turns"])
        except (OSError, ValueError):
            continue  # told of the examples
        try:
            data = build.store.read(path)
            have = pq.read_table(io.BytesIO(data))
            said = {k.decode(): v.decode() for k, v in (have.schema.metadata or {}).items()}
            have = have.select(TOKENS.names).cast(TOKENS)
        except (OSError, ValueError, KeyError) as fault:
            yield Finding(path, "tokens.form", f"not a readable Parquet file of counts: {fault}", mend)
            continue
        if said.get("examples_sha256") != listed.get(examples, {}).get("sha256"):
            yield Finding(path, "tokens.stale", "the examples were made again since they were counted", mend)
        yield from _part(path, tokenizer, have, rows, mend)
    for tokenizer in sorted(tokenizers):
        yield from _missing(build, tokenizer)


def _part(path: str, tokenizer: str, have: pa.Table, rows: pa.Table, mend: str) -> Iterator[Finding]:
    truth = count(rows, utf8_lengths)
    if not have["example_id"].equals(truth["example_id"]):
        yield Finding(path, "tokens.rows", f"{have.num_rows} rows are not those of its examples, in order", mend)
        return
    columns = ["media", "tokens"] if tokenizer == BYTES else ["media"]
    differs = [name for name in columns if not have[name].equals(truth[name])]
    if pc.min(have["tokens"]).as_py() is not None and pc.min(have["tokens"]).as_py() < 0:
        differs.append("tokens")
    for name in differs:
        wrong = have["example_id"].filter(pc.not_equal(have[name], truth[name])).to_pylist()
        yield Finding(path, f"tokens.{name}", f"{len(wrong)} rows are counted wrong: {few(wrong)}", mend)


def _missing(build: Build, tokenizer: str) -> Iterator[Finding]:
    """Give the parts of current examples that one of their tokenizers has not counted."""
    for task, print_ in sorted(build.manifest()["recipe"]["tasks"].items()):
        for part in build.example_parts(task, print_[:12]):
            path = f"{FOLDER}/{tokenizer}/{part.removeprefix('examples/')}"
            if not build.store.exists(path):
                yield Finding(path, "tokens.missing", f"{part} is not counted", _mend(tokenizer))


def _mend(tokenizer: str) -> str:
    return f"run `medloom tokens BUILD --tokenizer {tokenizer if tokenizer == BYTES else 'NAME'}` again"
