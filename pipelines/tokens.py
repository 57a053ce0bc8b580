"""Tokens: how long each example is to a tokenizer, written beside the rows so that packs are planned before reading.

A part is counted again only when its rows or the tokenizer have changed.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines import state
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION
from medloom.schemas.token_counts import BYTES, FOLDER, LengthsOf, count, tokenizer_folder, tokens_part, utf8_lengths

log = logging.getLogger(__name__)
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Counted:
    """What `count_tokens` did.

    Attributes:
        folder: of the counts in the build.
        digest: of the tokenizer, `BYTES` for bytes.
        parts, up_to_date: parts counted now, and those that needed it not.
        rows, tokens, media: of all parts: examples, tokens of their text, places of media.
        longest: tokens of the longest example.
    """

    folder: str
    digest: str
    parts: int
    up_to_date: int
    rows: int
    tokens: int
    media: int
    longest: int


def count_tokens(url: str, tokenizer: str = BYTES, *, told: Callable[[str], None] | None = None) -> Counted:
    """Write `OUT/tokens/<tokenizer>/<task>/<fingerprint12>/part-….parquet` for every part of examples of a build.

    Args:
        url: of the build.
        tokenizer: `BYTES`, or the folder or name of one that `transformers` reads; special tokens are not counted.
        told: called with the path of every part that was counted.

    Raises:
        SourceError: there is no build.
        ConfigError: the tokenizer cannot be read, or its extra is not installed.
        RetryLater: another run is writing the build.
    """
    build = Build(url).must_exist()
    folder = tokenizer_folder(tokenizer)
    digest, lengths_of = (BYTES, utf8_lengths) if tokenizer == BYTES else load_tokenizer(tokenizer)
    with state.locked(build.store):
        parts = [part for task, print_ in build.tasks() for part in build.example_parts(task, print_)]
        sums = _sums(build, parts)
        counted = {part: tokens_part(tokenizer, part) for part in parts}
        fresh = [part for part in parts if not _is_counted(build.store, counted[part], digest, sums[part])]
        for part in fresh:
            facts = {
                "format_version": str(FORMAT_VERSION), "tokenizer": folder.removeprefix(f"{FOLDER}/"),
                "tokenizer_digest": digest, "examples_sha256": sums[part],
            }  # fmt: skip
            rows = build.store.read_table(part, ["example_id", "turns"])
            build.store.write_table(counted[part], count(rows, lengths_of), facts)
            log.info("%s: %d examples counted", part, rows.num_rows)
            if told:
                told(part)
        for path in sorted(set(_files(build.store, folder)) - set(counted.values())):
            build.store.delete(path)  # its examples are gone
    return Counted(folder, digest, len(fresh), len(parts) - len(fresh), *_totals(build.store, list(counted.values())))


def load_tokenizer(name: str) -> tuple[str, LengthsOf]:
    """Return the digest of a tokenizer that `transformers` reads, and its counts of texts without special tokens.

    Raises:
        ConfigError: the extra is not installed, there is no such tokenizer, or it has no fast form.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as fault:
        raise ConfigError(
            f"tokenizer {name} needs transformers; install medloom[train], or count --tokenizer {BYTES}"
        ) from fault
    try:
        loaded: Any = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as fault:
        found = str(fault).strip().partition("\n")[0]
        raise ConfigError(f"cannot read tokenizer {name}: {found}; name a folder with a tokenizer.json") from fault
    if not loaded.is_fast:
        raise ConfigError(f"tokenizer {name} has no fast form (tokenizer.json); convert it with transformers first")
    loaded.backend_tokenizer.no_truncation()
    loaded.backend_tokenizer.no_padding()

    def lengths(texts: pa.Array) -> np.ndarray:
        found = np.zeros(len(texts), np.int64)
        at = np.flatnonzero(np.asarray(pc.not_equal(texts, "")))
        for start in range(0, len(at), _TEXTS_AT_ONCE):
            some = at[start : start + _TEXTS_AT_ONCE]
            said = texts.take(pa.array(some)).to_pylist()
            found[some] = [len(e.ids) for e in loaded.backend_tokenizer.encode_batch(said, add_special_tokens=False)]
        return found

    return sha256_hex(loaded.backend_tokenizer.to_str()), lengths


def _sums(build: Build, parts: list[str]) -> dict[str, str]:
    """Return the sha256 of each part: the manifest's where it lists the part, so as not to read it again."""
    newest = manifests.read_newest(build.store)
    listed = newest["files"] if newest else {}
    found = {}
    for part in parts:
        if part in listed and listed[part]["size"] == build.store.size(part):
            found[part] = listed[part]["sha256"]
        else:
            found[part] = hashlib.sha256(build.store.read(part)).hexdigest()
    return found


def _is_counted(store: Store, path: str, digest: str, examples_sha256: str) -> bool:
    if not store.exists(path):
        return False
    try:
        facts = store.table_metadata(path)
    except (OSError, ValueError):  # damaged: it is written anew
        return False
    return (facts.get("tokenizer_digest"), facts.get("examples_sha256")) == (digest, examples_sha256)


def _files(store: Store, folder: str) -> Iterator[str]:
    for task in store.folders(folder):
        for print_ in store.folders(f"{folder}/{task}"):
            for name in store.names(f"{folder}/{task}/{print_}"):
                yield f"{folder}/{task}/{print_}/{name}"


def _totals(store: Store, paths: list[str]) -> tuple[int, int, int, int]:
    rows, tokens, media, longest = 0, 0, 0, 0
    for path in paths:
        table = store.read_table(path, ["tokens", "media"])
        rows += table.num_rows
        tokens += pc.sum(table["tokens"]).as_py() or 0
        media += pc.sum(table["media"]).as_py() or 0
        longest = max(longest, pc.max(table["tokens"]).as_py() or 0)
    return rows, tokens, media, longest
