"""Lint of a release: its rows, states, overlay and index against what it pins, and against the build they point at."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medloom.quality.finding import BUILD_AGAIN, RELEASE_AGAIN, REPAIR, Finding, few, sha256_of
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError
from medloom.schemas.manifest import digest_of_manifest, parse
from medloom.schemas.release import SCOPES, SEVERITY, Release, overlay_names, read_overlay_part, resolve_uri
from medloom.schemas.release_index import ReleaseIndex, batches_path, has_index, index_path, read_batches
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import EXAMPLE, RELEASE_ROW

SAME = ("example_id", "source", "group", "split", "task", "language", "generator", "licence", "terms_id", "media")


def lint_release(build: Build, release: Release) -> Iterator[Finding]:
    """Give what is wrong with a release and with the rows that it takes from `build`."""
    folder = f"{release.url}/{release.name}"
    if not is_readable(release):
        yield Finding(f"{folder}/release.json", "release.form", "not a readable release", RELEASE_AGAIN)
        return
    try:
        rows = release.rows
    except (FormatError, OSError, ValueError) as fault:
        yield Finding(f"{folder}/rows.parquet", "release.rows", str(fault), RELEASE_AGAIN)
        return
    yield from _states(release)
    if release.facts["counts"]["rows"] != rows.num_rows:
        found = f"{rows.num_rows} rows, release.json says {release.facts['counts']['rows']}"
        yield Finding(f"{folder}/release.json", "release.counts", found, RELEASE_AGAIN)
    uris = [resolve_uri(pinned["uri"], base=release.url) for pinned in release.facts["builds"]]
    ours = [number for number, uri in enumerate(uris) if Build(uri).store.root == build.store.root]
    if not ours:
        yield Finding(f"{folder}/release.json", "release.builds", "it pins no build of this URL", "name its builds")
    for number in ours:
        yield from _pinned(build, release, release.facts["builds"][number])
        yield from _rows(build, release, rows.filter(pc.equal(rows["build"], number)))
    if has_index(release):
        for number in ours or (-1,):
            yield from _index(build, release, rows, number)


def is_readable(release: Release) -> bool:
    """Whether release.json is a release of a format that this code reads."""
    try:
        return {"builds", "counts", "rows_sha256"} <= release.facts.keys()
    except FormatError:
        return False


def _states(release: Release) -> Iterator[Finding]:
    """What the policy and the overlay say."""
    names = [(f"{release.name}/states.parquet", release.facts.get("states_sha256"))]
    names += [(f"overlay/{name}", None) for name in overlay_names(release.store)]
    for name, promised in names:
        path = f"{release.url}/{name}"
        try:
            table = read_overlay_part(release.store, name)
        except FormatError as fault:
            yield Finding(path, "release.states", str(fault), "restore the file")
            continue
        except (OSError, ValueError) as fault:
            yield Finding(path, "release.states", f"not a readable Parquet file: {fault}", "restore the file")
            continue
        if promised is not None and sha256_of(release.store, name) != promised:
            yield Finding(path, "release.states", "its bytes are not those that release.json pins", RELEASE_AGAIN)
        known = [row for row in table.to_pylist() if row["scope"] in SCOPES and row["state"] in SEVERITY]
        if len(known) != table.num_rows:
            found = f"{table.num_rows - len(known)} rows have a scope or a state that there is not"
            yield Finding(path, "release.states", found, "restore the file")


def _pinned(build: Build, release: Release, pinned: dict[str, Any]) -> Iterator[Finding]:
    path = f"manifests/{pinned['number']:04d}.json"
    if not build.store.exists(path):
        yield Finding(path, "release.manifest", f"release {release.number} pins it", "restore it")
        return
    try:
        same = digest_of_manifest(parse(build.store.read(path), where=path)) == pinned["manifest"]
    except FormatError:
        return  # told of the manifests
    if not same:
        yield Finding(path, "release.manifest", f"it is not the one that release {release.number} pins", "restore it")


def _rows(build: Build, release: Release, mine: pa.Table) -> Iterator[Finding]:
    """Compare rows with the example rows that they point at, part by part."""
    for part in sorted(pc.unique(mine["part"]).to_pylist()):
        wanted = mine.filter(pc.equal(mine["part"], part))
        if not build.store.exists(part):
            yield Finding(part, "release.part", f"{wanted.num_rows} rows of the release stand in it", BUILD_AGAIN)
            continue
        try:
            have = conform(build.store.read_table(part), EXAMPLE)
        except (OSError, ValueError):
            continue  # told of the examples
        at = np.asarray(wanted["row"])
        inside = (at >= 0) & (at < have.num_rows)
        found = have.take(pa.array(np.where(inside, at, 0))) if have.num_rows else have
        wrong = ~inside
        for name in SAME if have.num_rows else ():
            said, meant = (table[name].cast(RELEASE_ROW.field(name).type).to_pylist() for table in (wanted, found))
            wrong |= np.array([a != b for a, b in zip(said, meant, strict=True)])
        gone = [name for name, is_wrong in zip(wanted["example_id"].to_pylist(), wrong, strict=True) if is_wrong]
        if gone:
            told = f"{len(gone)} rows of release {release.number} are not what it says: {few(gone)}"
            yield Finding(part, "release.row", told, RELEASE_AGAIN)


def _index(build: Build, release: Release, rows: pa.Table, number: int) -> Iterator[Finding]:
    """The release's own index: its bytes, what it says of the build's media, and where rows say that media stand."""
    path = f"{release.url}/{batches_path(release.name)}"
    try:
        read_batches(release)
    except (FormatError, OSError, ValueError) as fault:
        yield Finding(path, "release.index", str(fault), REPAIR)
        return
    for name in sorted(release.facts["index"]["files"]):
        split, _, layout = _parted(name)
        path = index_path(release.name, split, layout)
        try:
            promised = release.facts["index"]["files"][name]["sha256"]
            if not release.store.exists(path) or sha256_of(release.store, path) != promised:
                yield Finding(f"{release.url}/{path}", "release.index", "it is not what release.json pins", REPAIR)
                continue
            index = ReleaseIndex(release, split, layout)
            wrong = [*_of_build(build, index, number), *_places(index, rows)]
        except (FormatError, OSError, ValueError) as fault:
            yield Finding(f"{release.url}/{path}", "release.index", str(fault), REPAIR)
            continue
        if wrong:
            found = f"{len(wrong)} media do not stand where it says: {few(wrong)}"
            yield Finding(f"{release.url}/{path}", "release.index.rows", found, RELEASE_AGAIN)


def _parted(name: str) -> tuple[str, str, str]:
    """Return split, "-" and layout of "train-volume-seg": no split has a dash."""
    return name.partition("-")


def _of_build(build: Build, index: ReleaseIndex, number: int) -> Iterator[str]:
    """Give the keys of which the release says otherwise than the build's own index of their shard."""
    names = ["key", "field", "offset", "size", "crc32c"]
    columns = {name: index.column(name) for name in ("build", "shard", *names)}
    mine = np.asarray(pc.equal(columns["build"], number))
    shards = np.asarray(columns["shard"])
    for shard in sorted(set(shards[mine].tolist())):
        at = pa.array(np.flatnonzero(mine & (shards == shard)))
        said = list(zip(*(columns[name].take(at).to_pylist() for name in names), strict=True))
        path = ShardName(index.split, shard).index(index.layout)
        if not build.store.exists(path):
            continue  # told of the shard
        try:
            have = build.store.read_table(path, names)
        except (OSError, ValueError):
            continue
        known = set(zip(*(have[name].to_pylist() for name in names), strict=True))
        yield from sorted({row[0] for row in said if row not in known})


def _places(index: ReleaseIndex, rows: pa.Table) -> list[str]:
    """Return the media of rows that do not begin where `media_at` says."""
    rows = rows.filter(pc.equal(rows["split"], index.split))
    lengths = [pc.fill_null(pc.list_value_length(rows[name]), 0) for name in ("media", "layouts", "media_at")]
    said = rows.filter(pc.and_(pc.equal(lengths[0], lengths[1]), pc.equal(lengths[0], lengths[2])))
    media, layouts, places = (pc.list_flatten(said[name]) for name in ("media", "layouts", "media_at"))
    mine = pc.equal(layouts, index.layout)
    media, at = media.filter(mine), np.asarray(places.filter(mine))
    inside = (at >= 0) & (at < len(index))
    keys, fields = index.column("key"), index.column("field")
    found = pa.array(np.where(inside, at, 0))
    right = np.asarray(pc.and_(pc.equal(keys.take(found), media), pc.equal(fields.take(found), "json"))) & inside
    return media.filter(pa.array(~right)).to_pylist() if len(index) else media.to_pylist()
