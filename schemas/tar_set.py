"""TarSet: anyone's tars as a source of examples, one per sample, by a walk over their headers or an index of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.manifest import parse
from medloom.schemas.release import States, relative_uri, resolve_uri
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION
from medloom.schemas.tar_find import find_tars, is_compressed, is_tar, tars_in
from medloom.schemas.tar_names import is_pattern
from medloom.schemas.tar_read import TarFile, is_local, size_and_stamp, walk_tar
from medloom.schemas.tar_samples import MEMBERS, Place, Samples, combine

INDEX_FILE, KIND = "index.json", "tars"
_THREADS = 16  # that wait for a remote store; a local walk is the processor's work


class TarSet:
    """Tars whose samples are examples; it has what a stream asks of a `Release`.

    Args:
        data: URLs of tars, with `{000..012}` and `*`; a folder of tars (also in its folders); or a folder that
            `medloom index` wrote, which is not walked again.

    Attributes:
        tars: in the order of the set; `rows` and `members` follow it.

    Raises:
        SourceError: there is no tar.
        FormatError: a tar is damaged, or the index is not one.
    """

    number = 0

    def __init__(self, data: str | Sequence[str]):
        index = _index_at(data) if isinstance(data, str) else None
        self._store = Store(str(data)) if index is not None else None
        self._walked: dict[int, pa.Table] = {}
        if index is not None and self._store is not None:
            self.tars = tuple(_tar_of(entry, base=self._store.url) for entry in index["tars"])
        else:
            walks = list(_each(find_tars(data), lambda number, tar: walk_tar(tar, contents=False)))
            self.tars = tuple(tar for tar, _ in walks)
            self._walked = {number: members for number, (_, members) in enumerate(walks)}
        self.data = data

    @property
    def url(self) -> str:
        """Where the index is, else the folder that holds the tars (the first, of several stores)."""
        return self._store.url if self._store else self.tars[0].folder

    @property
    def name(self) -> str:
        """Its number as a release's is written."""
        return f"{self.number:04d}"

    @cached_property
    def digest(self) -> str:
        """sha256 by which a checkpoint pins the set: names in it, sizes, members; not where it lies or since when."""
        facts = [{"name": t.name, "size": t.size, "split": t.split, "members": t.digest} for t in self.tars]
        return sha256_hex(canonical_json({"format_version": FORMAT_VERSION, "kind": KIND, "tars": facts}))

    @cached_property
    def _samples(self) -> Samples:
        places = [Place(n, tar.name.removesuffix(".tar"), tar.split, tar.source) for n, tar in enumerate(self.tars)]
        return combine([(place, self._members_of(place.number)) for place in places])

    def _members_of(self, number: int) -> pa.Table:
        if self._store is None:
            return self._walked[number]
        path = members_path(number)
        data = self._store.read(path)
        if sha256_hex(data) != self.tars[number].index_sha256:
            raise FormatError(f"{self._store.url}/{path} was changed after its index.json; run `medloom index` again")
        return conform(self._store.read_table(path), MEMBERS)

    @property
    def rows(self) -> pa.Table:
        """A row per sample (schema `RELEASE_ROW`), in the order of the tars."""
        return self._samples.rows

    @property
    def members(self) -> pa.Table:
        """A row per member (schema `RELEASE_INDEX`), those of a sample adjacent, in the order of `rows`; `key` is the
        sample's `example_id`, `shard` the tar's place in `tars`.
        """
        return self._samples.members

    @property
    def edges(self) -> np.ndarray:
        """int64, one more than rows: row i has the members [edges[i], edges[i + 1])."""
        return self._samples.edges

    @property
    def renamed(self) -> int:
        """How many samples have an `example_id` that is not just their key, since that comes again in the set."""
        return self._samples.renamed

    def overlay_parts(self) -> int:
        """No overlay: nobody has withheld anything."""
        return 0

    def states(self, *, parts: int | None = None) -> States:
        """Every sample is live."""
        return States({})

    def builds(self) -> list[Build]:
        """None: its tars are of nobody's build."""
        return []

    def check(self, number: int, *, size: int, tag: str) -> None:
        """Make sure that a tar whose store says this size and tag now is the one that was walked.

        Raises:
            FormatError: it was rewritten.
        """
        tar = self.tars[number]
        if size != tar.size or tar.stamp not in tag:
            raise FormatError(
                f"{tar.url} was rewritten since it was indexed ({tar.size} bytes then, {size} now); run "
                "`medloom index` again, and begin a new run or segment if its members are others"
            )


def holds_tars(url: str) -> bool:
    """Whether a URL means tars: a `.tar`, a pattern, a folder that holds some, or one that `medloom index` wrote."""
    if is_pattern(url) or is_tar(url):
        return True
    return _index_at(url) is not None or bool(tars_in(url))


def members_path(number: int) -> str:
    """Path of the members of a tar inside an index folder."""
    return f"members/{number:06d}.parquet"


def _index_at(url: str) -> dict[str, Any] | None:
    """Return the index.json of a folder that `medloom index` wrote, None for anything else."""
    if is_pattern(url) or is_tar(url) or is_compressed(url):
        return None
    store = Store(url)
    try:
        found = parse(store.read(INDEX_FILE), where=f"{url}/{INDEX_FILE}")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return found if found.get("kind") == KIND else None


def _tar_of(entry: dict[str, Any], *, base: str) -> TarFile:
    try:
        return TarFile(**{**entry, "folder": resolve_uri(entry["folder"], base=base)})
    except (KeyError, TypeError) as fault:
        raise FormatError(
            f"{base}/{INDEX_FILE} is not an index of tars ({fault!r}); run `medloom index` again"
        ) from fault


def write_index(
    data: str | Sequence[str], *, to: str, contents: bool = False, report: Callable[[TarFile], None] | None = None
) -> TarSet:
    """Walk tars and keep what was found in a folder, which a `TarSet` then reads; what is kept already is not redone.

    `members/NNNNNN.parquet` holds the members of each tar, `index.json`, written last, the tars with what tells them
    from rewritten ones.

    Args:
        contents: read every member too, for checksums, shapes, and chunks of volumes.
        report: told of each tar when it is done.

    Raises:
        SourceError, FormatError: as `TarSet`.
    """
    store, found = Store(to), find_tars(data)

    def one(number: int, tar: TarFile) -> TarFile:
        done = _kept(store, number, tar, contents) or _written(store, number, tar, contents)
        if report:
            report(done)
        return done

    tars = list(_each(found, one))
    entries = [asdict(tar) | {"folder": relative_uri(tar.folder, base=store.url)} for tar in tars]
    facts = {"format_version": FORMAT_VERSION, "kind": KIND, "contents": contents, "tars": entries}
    store.write(INDEX_FILE, (canonical_json(facts) + "\n").encode())
    for name in store.names("members"):
        if name not in {members_path(number).rpartition("/")[2] for number in range(len(tars))}:
            store.delete(f"members/{name}")
    return TarSet(to)


def _written(store: Store, number: int, tar: TarFile, contents: bool) -> TarFile:
    done, members = walk_tar(tar, contents=contents)
    said = {"format_version": FORMAT_VERSION, "contents": contents, "tar": asdict(done)}
    store.write_table(members_path(number), members, {KIND: canonical_json(said)})
    return replace(done, index_sha256=sha256_hex(store.read(members_path(number))))


def _kept(store: Store, number: int, tar: TarFile, contents: bool) -> TarFile | None:
    """Return what an earlier run found of a tar, if that is still the same; None otherwise."""
    path = members_path(number)
    try:
        said = json.loads(store.table_metadata(path)[KIND])
        known = TarFile(**said["tar"])
        digest = sha256_hex(store.read(path))
    except (FileNotFoundError, KeyError, TypeError, ValueError, pa.ArrowInvalid):
        return None
    as_asked = (said["format_version"], said["contents"]) == (FORMAT_VERSION, contents)
    same_place = (known.folder, known.name, known.split, known.source) == (tar.folder, tar.name, tar.split, tar.source)
    if not as_asked or not same_place or (known.size, known.stamp) != size_and_stamp(tar.url):
        return None
    return replace(known, index_sha256=digest)


def _each(tars: Sequence[TarFile], work: Callable[[int, TarFile], Any]) -> Iterator[Any]:
    """Do something with each tar and give the answers in order; where one waits for a store, many at a time."""
    if all(is_local(tar.url) for tar in tars):
        yield from (work(number, tar) for number, tar in enumerate(tars))
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(work, range(len(tars)), tars)
