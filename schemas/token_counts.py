"""Token counts: where those of a part of examples stand, and what is counted; beside the rows, never in them."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import slug
from medloom.schemas.tables import TOKENS

BYTES = "bytes"  # the tokenizer that gives a token to each byte of UTF-8
FOLDER = "tokens"
_ROWS_AT_ONCE = 8192
LengthsOf = Callable[[pa.Array], np.ndarray]


def tokenizer_folder(tokenizer: str) -> str:
    """Return the folder of a tokenizer's counts in a build: "tokens/bytes", "tokens/org-name" of "org/name".

    Of a folder of this machine, named with a leading `/`, `.` or `~`, only the last name counts.

    Raises:
        ConfigError: no folder can be named after it, or it would be that of `BYTES`.
    """
    is_path = tokenizer.startswith(("/", ".", "~"))
    name = slug(tokenizer.rstrip("/").rsplit("/", 1)[-1] if is_path else tokenizer)
    if tokenizer != BYTES and name in ("", BYTES):
        raise ConfigError(f"no folder can be named after tokenizer {tokenizer!r}; name one of a-z, 0-9, _ and -")
    return f"{FOLDER}/{name}"


def tokens_part(tokenizer: str, examples_part: str) -> str:
    """Return the path of the counts of `examples_part`, its rows in the same order.

    "examples/caption/0f…/part-train-000000.parquet" has "tokens/bytes/caption/0f…/part-train-000000.parquet".
    """
    return f"{tokenizer_folder(tokenizer)}/{examples_part.removeprefix('examples/')}"


def count(rows: pa.Table, lengths_of: LengthsOf) -> pa.Table:
    """Return the counts (schema `TOKENS`) of rows of examples, in their order.

    Args:
        rows: with the columns example_id and turns.
        lengths_of: gives the tokens of each of many texts; every text part of a turn is one text of its own.
    """
    made = []
    for batch in rows.select(["example_id", "turns"]).to_batches(max_chunksize=_ROWS_AT_ONCE):
        turns = batch["turns"]
        parts = pc.struct_field(pc.list_flatten(turns), "parts")
        row_of_part = _take(pc.list_parent_indices(turns), pc.list_parent_indices(parts))
        flat = pc.list_flatten(parts)
        texts, media = (pc.fill_null(pc.struct_field(flat, name), "") for name in ("text", "media"))
        tokens = np.bincount(row_of_part, weights=lengths_of(texts), minlength=batch.num_rows)
        places = np.bincount(row_of_part[np.asarray(pc.not_equal(media, ""))], minlength=batch.num_rows)
        columns = [batch["example_id"], pa.array(tokens.astype(np.int64)), pa.array(places)]
        made.append(pa.table(columns, names=TOKENS.names).cast(TOKENS))
    return pa.concat_tables(made) if made else TOKENS.empty_table()


def utf8_lengths(texts: pa.Array) -> np.ndarray:
    """Return how many bytes of UTF-8 each text has: the tokens of `BYTES`."""
    return np.asarray(pc.binary_length(texts))


def _take(values: pa.Array, at: pa.Array) -> np.ndarray:
    return np.asarray(values)[np.asarray(at)]
