"""From members of foreign tars to samples: which members make one, what it is called, and its row for streaming."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.schemas.build import conform
from medloom.schemas.tables import RELEASE_INDEX, RELEASE_ROW
from medloom.schemas.tar_names import key_and_field, roles_of
from medloom.schemas.tar_walk import Walked

TASK, TIER = "sample", "source"

# Members of one tar as its index keeps them: those of a sample adjacent, samples counted from 0 in the tar's order.
# What follows `size` is known only where contents were read.
MEMBERS = pa.schema([
    ("sample", pa.int64()), ("key", pa.string()),
    *(RELEASE_INDEX.field(name) for name in (
        "field", "offset", "size", "crc32c", "shape", "dtype", "chunk_shape", "block_shape", "chunk_offsets",
        "chunk_sizes", "chunk_crc32c",
    )),
])  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where the samples of one tar belong: its number and name in the set, its split and its source."""

    number: int
    name: str
    split: str
    source: str


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a set.

    Attributes:
        rows, members: schemas `RELEASE_ROW` and `RELEASE_INDEX`, in the order of the tars.
        edges: int64, one more than rows: row i has the members [edges[i], edges[i + 1]), whose `key` is its example_id.
        renamed: how many have an example_id that is not simply their key.
    """

    rows: pa.Table
    members: pa.Table
    edges: np.ndarray
    renamed: int


def members_of(walked: Walked) -> tuple[pa.Table, dict[str, int]]:
    """Return the members of samples (schema `MEMBERS`) and how many others there were, by kind.

    A sample is a run of members of one key. Runs of a key that stand apart and share no field are one sample (a tar
    packed in the order of a file system); runs that share a field are samples of the same key. A run that holds a field
    twice is ambiguous, and refused as "field twice".
    """
    keys, fields, places = key_and_field(walked.names)
    others = dict(walked.skipped)
    if len(places) < len(walked.names):
        others["unnamed"] = len(walked.names) - len(places)
    at = np.asarray(places, np.int64)
    table = pa.table({
        "key": pa.array(keys, pa.string()), "field": pa.array(fields, pa.string()), "offset": walked.offsets[at],
        "size": walked.sizes[at],
    })  # fmt: skip
    codes = _codes(table["key"])
    sample = _samples(codes, _codes(table["field"]))
    ambiguous = _holding_twice(sample, _codes(table["field"]))
    if ambiguous.any():
        others["field twice"] = len(np.unique(sample[ambiguous]))
    keep = np.flatnonzero(~ambiguous)
    keep = keep[np.argsort(sample[keep], kind="stable")]
    number = np.unique(sample[keep], return_inverse=True)[1].astype(np.int64)
    return conform(table.take(keep).append_column("sample", pa.array(number)), MEMBERS), others


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a number for each value, equal for equal values."""
    codes: np.ndarray = column.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)


def _samples(key: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Return the sample of each member, numbered by where it begins."""
    if not len(key):
        return key
    begins = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    run = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, len(key)]))
    runs_of_key = np.bincount(key[begins])
    if (runs_of_key <= 1).all():
        return begins[run]
    # Keys that come again: gather their runs unless a field would be there twice.
    first = np.full(len(runs_of_key), len(key))
    np.minimum.at(first, key, np.arange(len(key)))
    gathered = first[key]
    clashing = np.zeros(len(runs_of_key), bool)
    clashing[key[_holding_twice(gathered, field)]] = True
    return np.where(clashing[key], begins[run], gathered)


def _holding_twice(sample: np.ndarray, field: np.ndarray) -> np.ndarray:
    """Whether each member belongs to a sample that holds some field twice."""
    if not len(sample):
        return np.zeros(0, bool)
    pair = sample * (int(field.max()) + 1) + field
    values, counts = np.unique(pair, return_counts=True)
    twice = np.unique(values[counts > 1] // (int(field.max()) + 1))
    return np.isin(sample, twice)


def digest_of_members(members: pa.Table) -> str:
    """Return the sha256 of what a tar holds as far as it was read: keys, fields, places, and contents by checksum."""
    digest = hashlib.sha256()
    for name in ("key", "field"):
        digest.update("\0".join(members[name].to_pylist()).encode())
        digest.update(b"\n")
    for name in ("sample", "offset", "size"):
        digest.update(np.ascontiguousarray(members[name].to_numpy(), "<i8").tobytes())
    if members["crc32c"].null_count < members.num_rows:
        digest.update(np.ascontiguousarray(members["crc32c"].to_numpy(), "<u4").tobytes())
    return digest.hexdigest()


def combine(parts: Sequence[tuple[Place, pa.Table]]) -> Samples:
    """Return the samples of a set, from the members of its tars.

    A sample is named by its key; one that comes again in the set is named `tar:key`, and within a tar `tar:key#3` if it
    is the tar's third sample; where tars share a name, or a key is another's name, `#2-3` follows: third of tar 2.
    """
    counts = np.asarray([_samples_in(table) for _, table in parts], np.int64)
    member_counts = [table.num_rows for _, table in parts]
    tables = [table for _, table in parts] or [MEMBERS.empty_table()]
    members = pa.concat_tables(tables).combine_chunks()
    base = np.repeat(np.r_[0, np.cumsum(counts)[:-1]] if len(counts) else counts, member_counts)
    sample = members["sample"].to_numpy() + base
    first = np.flatnonzero(np.r_[True, sample[1:] != sample[:-1]]) if len(sample) else sample
    tar = np.repeat(np.arange(len(parts)), counts)
    number = np.arange(len(tar)) - np.repeat(np.r_[0, np.cumsum(counts)[:-1]] if len(counts) else counts, counts)
    places = [place for place, _ in parts]
    names = pa.array([place.name for place in places], pa.string()).take(pa.array(tar))
    ids, renamed = _unique(members["key"].combine_chunks().take(pa.array(first)), names, tar, number)
    rows = _rows(ids, tar, number, places) | _media(ids, members, first)
    columns = {"key": ids.take(pa.array(sample)), "build": pa.array(np.zeros(len(sample), np.int32)),
               "shard": pa.array(np.repeat(np.asarray([p.number for p in places], np.int32), member_counts)),
               "source": pa.array([p.source for p in places], pa.string()).take(
                   pa.array(np.repeat(np.arange(len(parts)), member_counts)))}  # fmt: skip
    kept = {name: members[name] for name in MEMBERS.names if name not in ("sample", "key")}
    edges = np.r_[first, len(sample)].astype(np.int64)
    return Samples(
        pa.table({n: rows[n] for n in RELEASE_ROW.names}, RELEASE_ROW), _indexed(kept | columns), edges, renamed
    )


def _samples_in(table: pa.Table) -> int:
    return int(table["sample"][-1].as_py()) + 1 if table.num_rows else 0


def _indexed(columns: dict[str, pa.Array]) -> pa.Table:
    """Return members by the schema of a release's index; what a foreign tar does not say is empty."""
    rows = len(columns["key"])
    blank = {f.name: pa.repeat("", rows) for f in RELEASE_INDEX if f.name not in columns and f.type == pa.string()}
    return conform(pa.table({**columns, **blank}), RELEASE_INDEX)


def _unique(keys: pa.Array, names: pa.Array, tar: np.ndarray, number: np.ndarray) -> tuple[pa.Array, int]:
    """Return a name for each sample that no other of the set has, and how many are not simply their key.

    No two samples have the same tar and number, so names that end with both differ from each other: each turn of the
    loop gives this end to a sample that had it not yet, or is the last.
    """
    ids, again = keys, _repeated(keys)
    renamed = int(again.sum())
    if renamed:
        longer = pc.binary_join_element_wise(names, keys, ":")
        ids = pc.if_else(pa.array(again), longer, ids)
    ordinal, of_tar = pc.cast(pa.array(number + 1), pa.string()), pc.cast(pa.array(tar), pa.string())
    end = ordinal
    while (again := _repeated(ids)).any():
        ids = pc.if_else(pa.array(again), pc.binary_join_element_wise(ids, end, "#"), ids)
        end = pc.binary_join_element_wise(of_tar, ordinal, "-")
    return ids, renamed


def _repeated(ids: pa.Array) -> np.ndarray:
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated: np.ndarray = np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, bool)
    return repeated


def _rows(ids: pa.Array, tar: np.ndarray, number: np.ndarray, places: list[Place]) -> dict[str, pa.Array]:
    """Return the columns of rows that do not speak of media."""
    each = pa.array(tar)
    parts = pa.array([f"part-{place.split}-{place.number:06d}" for place in places], pa.string())
    return {
        "example_id": ids, "group": ids, "build": pa.array(np.zeros(len(tar), np.int32)),
        "source": pa.array([place.source for place in places], pa.string()).take(each),
        "split": pa.array([place.split for place in places], pa.string()).take(each),
        "part": parts.take(each), "row": pa.array(number.astype(np.int32)),
        "task": pa.repeat(TASK, len(tar)), "tier": pa.repeat(TIER, len(tar)),
        **{name: pa.repeat("", len(tar)) for name in ("language", "generator", "licence", "terms_id")},
    }  # fmt: skip


def _media(ids: pa.Array, members: pa.Table, first: np.ndarray) -> dict[str, pa.Array]:
    """Return the columns of rows that list media: a medium is named `example_id.field`."""
    edges = np.r_[first, members.num_rows].astype(np.int32)
    fields = pa.ListArray.from_arrays(pa.array(edges), members["field"].combine_chunks())
    signature = pc.binary_join(fields, "/").dictionary_encode()  # no field holds a slash
    sets = [tuple(text.split("/")) for text in signature.dictionary.to_pylist()]
    media = [[(f, s.index(f)) for f, _ in roles_of(s).media] for s in sets]
    kind = signature.indices.to_numpy(zero_copy_only=False)
    count = np.asarray([len(m) for m in media], np.int64)
    begin = np.r_[0, np.cumsum(count)[:-1]] if len(count) else count
    each = count[kind] if len(kind) else np.zeros(0, np.int64)
    offsets = np.r_[0, np.cumsum(each)].astype(np.int32)
    sample = np.repeat(np.arange(len(kind)), each)
    which = begin[kind[sample]] + np.arange(len(sample)) - offsets[sample] if len(sample) else sample
    named = pa.array([f for m in media for f, _ in m], pa.string()).take(pa.array(which))
    at = first[sample] + np.asarray([place for m in media for _, place in m], np.int64)[which]
    flat = {
        "layouts": named, "media": pc.binary_join_element_wise(ids.take(pa.array(sample)), named, "."),
        "modalities": pa.repeat("", len(sample)), "media_at": pa.array(at),
        "shapes": _shape_texts(members["shape"].combine_chunks().take(pa.array(at))),
    }  # fmt: skip
    return {name: pa.ListArray.from_arrays(pa.array(offsets), values) for name, values in flat.items()}


def _shape_texts(shapes: pa.Array) -> pa.Array:
    """Return "32x256x256" of each shape, "" of one that is not known."""
    if shapes.null_count == len(shapes):
        return pa.repeat("", len(shapes))
    return pc.binary_join(pc.fill_null(shapes, pa.scalar([], shapes.type)).cast(pa.list_(pa.string())), "x")
