"""Which rows of a release are meant: by split, by columns of the rows and of their media, by their state."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.model.lanes import flat
from medloom.schemas.errors import ConfigError
from medloom.schemas.release import Release, States
from medloom.schemas.release_index import ReleaseIndex, has_index
from medloom.schemas.tables import RELEASE_ROW
from medloom.schemas.tar_set import TarSet

MEDIA_COLUMNS = ("body_part", "plane", "modality", "dtype", "units")  # of the index: `where` asks all media of a row


def live_rows(source: Release | TarSet, *, split: str, where: Mapping[str, Any] | None = None) -> np.ndarray:
    """Return, in stored order, the numbers of the rows of a split that are live now and satisfy `where`."""
    mask = selected(source, split, plain_where(where or {}))
    return np.flatnonzero(live(source.rows, source.states(), mask))


def live(rows: pa.Table, states: States, among: np.ndarray) -> np.ndarray:
    """Return which of the rows in `among` (a mask) are live by `states`."""
    return among & _numpy(pc.equal(states.of_rows(rows), "live"))


def plain_where(where: Mapping[str, Any]) -> dict[str, Any]:
    """Return `where` as JSON has it: columns by name, several values as a sorted list.

    Raises:
        ConfigError: a column is not one of a release's rows or of their media.
    """
    known = (*RELEASE_ROW.names, *(name for name in MEDIA_COLUMNS if name not in RELEASE_ROW.names))
    unknown = sorted(set(where) - set(known))
    if unknown:
        raise ConfigError(f"where names {', '.join(unknown)}; columns of a release are {', '.join(known)}")
    return {
        name: sorted(value) if isinstance(value, (list, tuple, set, frozenset)) else value
        for name, value in sorted(where.items())
    }


def selected(source: Release | TarSet, split: str, where: Mapping[str, Any]) -> np.ndarray:
    """Return a mask of the rows of a split that satisfy `where`, whatever their state.

    Raises:
        ConfigError: there is no such split, or a column is compared with what it cannot hold.
    """
    rows = source.rows
    mask: np.ndarray = _numpy(pc.equal(rows["split"], split))
    if not mask.any():
        have = ", ".join(f"{v['values']} ({v['counts']})" for v in pc.value_counts(rows["split"]).to_pylist())
        raise ConfigError(f"the release has no rows of split {split!r}; it has {have or 'no rows'}")
    for name, value in where.items():
        column = rows[name] if name in rows.column_names else media_column(source, name, mask)
        mask &= _satisfies(column, value if isinstance(value, list) else [value], name)
    return mask


def media_column(source: Release | TarSet, name: str, among: np.ndarray) -> pa.ChunkedArray:
    """Return of each row in `among` (a mask) what the index says of its media, a list of strings; of others nothing."""
    owner, _ = flat(source.rows["media"])
    wanted = np.flatnonzero(among[owner])
    if isinstance(source, TarSet):
        values = _first_said(source.members, name, np.asarray(flat(source.rows["media_at"])[1])[wanted])
    elif has_index(source) and source.rows["media_at"].null_count == 0:
        values = _from_release_index(source, name, wanted)
    else:  # a release of before it had an index of its own
        values = _from_builds(source, name, wanted)
    ends = np.cumsum(np.bincount(owner[wanted], minlength=source.rows.num_rows))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values)])


def _from_release_index(source: Release, name: str, wanted: np.ndarray) -> pa.Array:
    """Return a column of the release's own index for flat media numbers."""
    owner, at = flat(source.rows["media_at"])
    place = np.asarray(at)[wanted]
    split = source.rows["split"].combine_chunks().take(pa.array(owner[wanted]))
    layout = flat(source.rows["layouts"])[1].take(pa.array(wanted))
    files = pc.binary_join_element_wise(split, layout, " ").dictionary_encode()
    values = np.empty(len(wanted), object)
    for number, file in enumerate(files.dictionary.to_pylist()):
        mine = np.flatnonzero(np.asarray(files.indices) == number)
        index = ReleaseIndex(source, *file.split(" ", 1))
        members = pa.table({column: index.column(column) for column in ("key", name)})
        values[mine] = _first_said(members, name, place[mine]).to_pylist()
    return pa.array(values, pa.string())


def _first_said(members: pa.Table, name: str, at: np.ndarray) -> pa.Array:
    """Return what the first member of each medium says, or where that says nothing (a json has no dtype) its second.

    Args:
        members: rows of an index, those of a medium adjacent.
        at: of each medium, where its first member stands.
    """
    first, second = pa.array(at), pa.array(np.minimum(at + 1, max(0, members.num_rows - 1)))
    values, keys = (members[column].combine_chunks() for column in (name, "key"))
    said, other = (pc.fill_null(values.take(place), "") for place in (first, second))
    go_on = pc.and_(pc.equal(said, ""), pc.equal(keys.take(first), keys.take(second)))
    return pc.if_else(go_on, other, said)


def _from_builds(source: Release, name: str, wanted: np.ndarray) -> pa.Array:
    """Return a column of the builds' own indexes, for flat media numbers of an old release."""
    owner, keys = flat(source.rows["media"])
    build = np.asarray(source.rows["build"])[owner[wanted]]
    values = np.empty(len(wanted), object)
    builds = source.builds()
    for number in np.unique(build):
        index = builds[number].index(columns=["key", name])
        said = index.filter(pc.not_equal(pc.fill_null(index[name], ""), ""))
        mine = np.flatnonzero(build == number)
        found = pc.index_in(keys.take(pa.array(wanted[mine])), value_set=said["key"].combine_chunks())
        values[mine] = pc.fill_null(said[name].combine_chunks().take(found), "").to_pylist()
    return pa.array(values, pa.string())


def _satisfies(column: pa.ChunkedArray, allowed: list[Any], name: str) -> np.ndarray:
    """Whether each value is one of `allowed`; of a list, whether all are (a row without media satisfies nothing)."""
    is_list = pa.types.is_list(column.type)
    inner = column.type.value_type if is_list else column.type
    try:
        values = pa.array(allowed, inner)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as fault:
        raise ConfigError(f"where compares {name}, a column of {inner}, with {allowed!r}") from fault
    if not is_list:
        return _numpy(pc.is_in(column, values))
    parent, flattened = flat(column)
    good = np.bincount(parent[_numpy(pc.is_in(flattened, values))], minlength=len(column))
    length = _numpy(pc.fill_null(pc.list_value_length(column), 0))
    return (good == length) & (length > 0)


def _numpy(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return np.array(array.to_numpy(zero_copy_only=False))
