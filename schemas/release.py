"""Release: builds + a policy + an overlay of states; numbered, with a parent; its rows are what streaming permutes."""

import hashlib
import os
import posixpath
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medloom.schemas.build import Build, conform
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.manifest import digest_of_manifest, parse
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, RELEASE_ROW, STATE

State = Literal["live", "withheld", "withdrawn"]
SEVERITY = {"live": 0, "withheld": 1, "withdrawn": 2}
SCOPES = ("example", "medium", "group", "query")
_ROWS_SHA256 = "rows_sha256"  # in a part's metadata: what Parquet reads after a flipped bit may be other rows
QUERIED = tuple(name for name in RELEASE_ROW.names if name != "media_at")  # what a query may name


@dataclass(frozen=True)
class States:
    """The worst state of each subject, by scope; what is not named is live."""

    worst: dict[tuple[str, str], str]

    @classmethod
    def of(cls, *tables: pa.Table) -> "States":
        """Fold rows of `STATE`: in the overlay a later "live" of a withheld subject lifts it, a withdrawal stays."""
        worst: dict[tuple[str, str], str] = {}
        for table in tables:
            for row in table.to_pylist():
                subject = (row["scope"], row["id"])
                if worst.get(subject) != "withdrawn":
                    worst[subject] = row["state"]
        return cls(worst)

    def of_row(self, row: dict[str, Any]) -> str:
        """State of a release row: the worst of itself, its media, its group and the queries that match it."""
        found = [self.worst.get(("example", row["example_id"])), self.worst.get(("group", row["group"]))]
        found += [self.worst.get(("medium", key)) for key in row["media"]]
        found += [state for (scope, query), state in self.worst.items() if scope == "query" and matches(row, query)]
        return max((s for s in found if s), key=SEVERITY.__getitem__, default="live")

    def of_rows(self, rows: pa.Table) -> pa.Array:
        """States of many release rows, column by column: what `of_row` says of each, a million of them in a second."""
        worst = np.zeros(rows.num_rows, np.int8)
        for state in ("withheld", "withdrawn"):
            touched = self._named(rows, state)
            for query in self._subjects("query", state):
                touched |= _matching(rows, query)
            worst[touched] = SEVERITY[state]
        return pa.array(list(SEVERITY), pa.string()).take(pa.array(worst))

    def _subjects(self, scope: str, state: str) -> list[str]:
        return [name for (of, name), have in self.worst.items() if of == scope and have == state]

    def _named(self, rows: pa.Table, state: str) -> np.ndarray:
        """Whether each row, its group or one of its media is said to be of `state`."""
        touched = np.zeros(rows.num_rows, bool)
        for scope, column in (("example", "example_id"), ("group", "group"), ("medium", "media")):
            subjects = self._subjects(scope, state)
            if subjects:
                touched |= _holds(rows[column], subjects)
        return touched


def _matching(rows: pa.Table, query: str) -> np.ndarray:
    touched = np.ones(rows.num_rows, bool)
    for column, value in parse_query(query).items():
        touched &= _holds(rows[column], [value])
    return touched


def _holds(column: pa.ChunkedArray, values: list[str]) -> np.ndarray:
    """Whether each value, as text, is one of `values`; of a list, whether one of its values is."""
    if not pa.types.is_list(column.type):
        return np.asarray(pc.is_in(column.cast(pa.string()), value_set=pa.array(values, pa.string())))
    hits = np.asarray(pc.is_in(pc.list_flatten(column), value_set=pa.array(values, pa.string())))
    touched = np.zeros(len(column), bool)
    touched[np.asarray(pc.list_parent_indices(column))[hits]] = True
    return touched


def matches(row: dict[str, Any], query: str) -> bool:
    """Whether a row satisfies `column=value[,column=value…]`; a list column matches when it holds the value."""
    for column, value in parse_query(query).items():
        have = row[column]
        if (value not in have) if isinstance(have, list) else (str(have) != value):
            return False
    return True


def parse_query(query: str) -> dict[str, str]:
    """Return the conditions of `column=value[,column=value…]`.

    Raises:
        ConfigError: it is not of that form, or names a column that release rows have not.
    """
    conditions = dict(part.partition("=")[::2] for part in query.split(","))
    unknown = sorted(set(conditions) - set(QUERIED))
    if unknown or not all(conditions.values()):
        raise ConfigError(f"query {query!r} is not column=value[,column=value]; columns are {', '.join(QUERIED)}")
    return conditions


class Release:
    """Reads a numbered release by the URL of its folder (REL) or of a build (OUT, whose `releases` is meant)."""

    def __init__(self, url: str, *, number: int | None = None):
        self.store = Store(url)
        if not self.store.exists("overlay") and self.store.exists("releases"):
            self.store = Store(f"{self.store.url}/releases")
        numbers = self.numbers()
        if not numbers:
            raise SourceError(f"{url} holds no release; `medloom release BUILD --to {url}` makes one")
        self._said: dict[str, pa.Table] = {}
        self.number = numbers[-1] if number is None else number
        if self.number not in numbers:
            raise SourceError(f"{self.store.url} has no release {self.number}; it has {', '.join(map(str, numbers))}")

    def __reduce__(self) -> Any:
        return _reopened, (self.url, self.number)  # rows are read again where they are wanted, never sent

    @property
    def url(self) -> str:
        """Where the releases are."""
        return self.store.url

    @property
    def name(self) -> str:
        """The four digits of its number."""
        return f"{self.number:04d}"

    def numbers(self) -> list[int]:
        """Numbers of all finished releases, ascending."""
        folders = [f for f in self.store.folders("") if f.isdigit()]
        return sorted(int(f) for f in folders if self.store.exists(f"{f}/release.json"))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """release.json: format_version, number, parent, builds (uri, manifest), policy, counts, rows' digest."""
        path = f"{self.name}/release.json"
        return parse(self.store.read(path), where=f"{self.url}/{path}")

    @cached_property
    def digest(self) -> str:
        """sha256 by which a checkpoint pins the release."""
        return sha256_hex(canonical_json(self.facts))

    @cached_property
    def rows(self) -> pa.Table:
        """All rows of the release (schema `RELEASE_ROW`), in their stored order.

        Raises:
            FormatError: they are not the rows that release.json promises.
        """
        return conform(self._pinned_table("rows"), RELEASE_ROW)

    def overlay_parts(self) -> int:
        """How many parts the overlay has now."""
        return len(overlay_names(self.store))

    def states(self, *, parts: int | None = None) -> States:
        """States by this release's policy and by the overlay: as it stands now, or by its first `parts` parts."""
        names = [f"overlay/{name}" for name in overlay_names(self.store)[:parts]]
        for name in names:
            if name not in self._said:  # parts are never written again
                self._said[name] = read_overlay_part(self.store, name)
        return States.of(self._by_policy, *(self._said[name] for name in names))

    @cached_property
    def _by_policy(self) -> pa.Table:
        """What the release's own policy says.

        Raises:
            FormatError: it is not what release.json promises.
        """
        return conform(self._pinned_table("states"), STATE)

    def _pinned_table(self, name: str) -> pa.Table:
        path, promised = f"{self.name}/{name}.parquet", self.facts.get(f"{name}_sha256")  # absent in the first releases
        data = self.store.read(path)
        if promised and hashlib.sha256(data).hexdigest() != promised:
            raise FormatError(f"{self.url}/{path} was changed after release {self.number}; make a new release")
        return pq.read_table(pa.BufferReader(data))

    def builds(self) -> list[Build]:
        """The builds it pins, in the order that rows' `build` counts.

        Raises:
            FormatError: a build no longer holds the state that was pinned.
        """
        found = []
        for pinned in self.facts["builds"]:
            build = Build(resolve_uri(pinned["uri"], base=self.url))
            path = f"manifests/{pinned['number']:04d}.json"
            if not build.store.exists(path):
                raise FormatError(
                    f"release {self.number} pins manifest {pinned['number']} of {build.url}, which is not there"
                )
            if digest_of_manifest(parse(build.store.read(path), where=f"{build.url}/{path}")) != pinned["manifest"]:
                raise FormatError(
                    f"release {self.number} pins another manifest {pinned['number']} than {build.url} has"
                )
            found.append(build)
        return found

    def live_rows(self, split: str | None = None) -> pa.Table:
        """The rows whose state is live now, of one split or of all."""
        rows = self.rows if split is None else self.rows.filter(pc.equal(self.rows["split"], split))
        return rows.filter(pc.equal(self.states().of_rows(rows), "live"))


def _reopened(url: str, number: int) -> Release:
    return Release(url, number=number)


def find_release(url: str) -> Release | None:
    """Return the newest release at `url`, of a folder of releases or of a build; None where none was finished."""
    for folder in (url, f"{url.rstrip('/')}/releases"):
        store = Store(folder)
        if any(f.isdigit() and store.exists(f"{f}/release.json") for f in store.folders("")):
            return Release(folder)
    return None


def overlay_names(store: Store) -> list[str]:
    """Return the names of the overlay's parts in the order they were appended."""
    return [name for name in store.names("overlay") if name.endswith(".parquet")]


def read_overlay(store: Store) -> pa.Table:
    """Return the overlay's rows in the order they were appended."""
    parts = [read_overlay_part(store, f"overlay/{name}") for name in overlay_names(store)]
    return pa.concat_tables(parts) if parts else STATE.empty_table()


def read_overlay_part(store: Store, path: str) -> pa.Table:
    """Return the rows of one part of the overlay (schema `STATE`); parts of the first releases carry no checksum.

    Raises:
        FormatError: its rows are not those that were appended.
    """
    table = store.read_table(path)
    promised = (table.schema.metadata or {}).get(_ROWS_SHA256.encode())
    if promised is not None and _sha256_of_rows(table).encode() != promised:
        raise FormatError(f"{store.url}/{path} was changed after it was written; restore the file from a copy")
    return conform(table, STATE)


def _sha256_of_rows(table: pa.Table) -> str:
    try:
        return sha256_hex(canonical_json(table.to_pylist()))
    except (UnicodeDecodeError, TypeError):  # damaged text, which Arrow does not look at, or a column of another type
        return ""


def append_overlay(store: Store, rows: list[dict[str, str]]) -> str:
    """Append states to the overlay and return the path of the new part; nothing in tars or rows changes."""
    table = pa.Table.from_pylist(rows, schema=STATE)
    metadata = {"format_version": str(FORMAT_VERSION), _ROWS_SHA256: _sha256_of_rows(table)}
    number = len(store.names("overlay")) + 1
    while not store.create_table(path := f"overlay/{number:04d}.parquet", table, metadata):
        number += 1  # another curator was faster; both parts count
    return path


def relative_uri(url: str, *, base: str) -> str:
    """Return `url` as written into a release at `base`: relative when both are local, so that both can move."""
    if Store(url).is_local and Store(base).is_local:
        return os.path.relpath(Store(url).root, Store(base).root)
    return url


def resolve_uri(uri: str, *, base: str) -> str:
    """Undo `relative_uri`; a relative URI that was copied to an object store with its release means the store's."""
    if "://" in uri or uri.startswith("/"):
        return uri
    if not Store(base).is_local:
        scheme, _, path = base.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(path, uri))}"
    return os.path.normpath(os.path.join(Store(base).root, uri))
