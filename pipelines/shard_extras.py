"""Extras: what other readers want beside plain tars, made from indexes and ledgers without reading a tar.

`wids/<split>-<layout>.json` lists tars for webdataset's wids. `energon/<layout>/` is a data set of Megatron-Energon
as its `prepare` would leave it, without tables of samples: `.nv-meta` and, as energon wants offsets beside a tar, a
link to each tar with its `.tar.idx`. In `media/` a stray file breaks Hugging Face, which takes it for a tar; only
on an object store, which has no links, the offsets lie there. No manifest lists extras: delete them, make them again.
"""

import json
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.keys import sha256_hex
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.release import Release
from medloom.schemas.release_index import read_batches
from medloom.schemas.shard import BLOCK, ShardName
from medloom.schemas.store import Store

SPLITS = {"validation": "val"}  # a split of ours by the name that energon asks for, where they differ
_CAPTIONED = {"__module__": "megatron.energon", "__class__": "CaptioningSample"}
_CRUDE = {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}
SAMPLES = {  # how energon is to read a layout: pictures with their captions, volumes as they are
    "jpg": {"sample_type": _CAPTIONED, "field_map": {"image": "jpg", "caption": "json[text]"}},
    "png": {"sample_type": _CAPTIONED, "field_map": {"image": "png", "caption": "json[text]"}},
    "volume": _CRUDE,
    "volume-seg": _CRUDE,
}


@dataclass(frozen=True)
class Extras:
    """What stands now: paths in the build or release, and how many files were written or changed."""

    files: tuple[str, ...]
    tars: int
    written: int


@dataclass(frozen=True)
class _Tar:
    build: Build
    shard: ShardName
    layout: str
    facts: dict[str, Any]  # of its ledger
    folder: str = ""  # where builds are several: of their links

    @property
    def path(self) -> str:
        return self.shard.tar(self.layout)

    @property
    def link(self) -> str:
        return f"{self.folder}{posixpath.basename(self.path)}"


def write_extras(url: str, *, wids: bool, energon: bool) -> Extras:
    """Write the extras of a build, or of the newest release at `url`, which lists only tars that its rows use.

    Whole tars are listed: what a release withholds stands in them too, until it is published.

    Raises:
        ConfigError: neither is asked for.
        SourceError: there is neither a build nor a release.
        FormatError: a tar was rewritten after the release, or the release is too old to have an index.
    """
    if not (wids or energon):
        raise ConfigError("medloom extras needs --wids, --energon or both")
    store, prefix, name, tars = _what(url)
    if not tars:
        raise SourceError(f"{url} holds no tar of a finished shard; run its build again")
    files: dict[str, bytes] = {}
    if wids:
        files |= {path: _json(facts) for path, facts in _wids(store, prefix, name, tars)}
    if energon:
        files |= {path: _json(facts) for path, facts in _energon(store, prefix, tars)}
    written = sum(_put(store, path, data) for path, data in files.items())
    if energon:
        written += sum(_put_offsets(store, f"{prefix}energon/{tar.layout}", tar) for tar in tars)
    return Extras(tuple(sorted(files)), len(tars), written)


def wrong_extras(url: str) -> list[tuple[str, bool, bool]]:
    """Return the extras of a build or of its newest release that stand there otherwise than they would be written.

    Each with what it is of, wids or energon, as `write_extras` asks for them; none where none were made.

    Raises:
        SourceError, FormatError: as `write_extras`.
    """
    store, prefix, name, tars = _what(url)
    folders = {kind: f"{prefix}{kind}" for kind in ("wids", "energon") if store.exists(f"{prefix}{kind}")}
    wanted: dict[str, bytes] = {}
    if "wids" in folders:
        wanted |= {path: _json(facts) for path, facts in _wids(store, prefix, name, tars)}
    if "energon" in folders:
        wanted |= {path: _json(facts) for path, facts in _energon(store, prefix, tars)}
        for tar in tars:
            folder = f"{prefix}energon/{tar.layout}"
            if _is_linked(store, tar):
                wanted[f"{folder}/{tar.link}.idx"] = _offsets(tar)
                if not store.exists(f"{folder}/{tar.link}"):
                    wanted[f"{folder}/{tar.link}"] = b""
            elif not _stands(tar.build.store, f"{tar.path}.idx", _offsets(tar)):
                wanted[f"{folder}/{tar.link}.idx"] = b""
    wrong = [path for path, data in wanted.items() if not data or not _stands(store, path, data)]
    return [(path, path.startswith(f"{prefix}wids/"), path.startswith(f"{prefix}energon/")) for path in sorted(wrong)]


def drop_extras(store: Store, shards: list[ShardName]) -> None:
    """Delete the extras of a build whose `shards` are about to be written: their offsets would be another tar's."""
    for folder in ("wids", "energon"):
        store.delete_folder(folder)
    if not store.is_local:
        for shard in shards:
            for layout in LAYOUTS:
                store.delete(f"{shard.tar(layout)}.idx")


def _what(url: str) -> tuple[Store, str, str, list[_Tar]]:
    """Return the store, the folder in it and the name of what `url` is, and its tars by split, layout and number."""
    build = Build(url)
    if build.store.names("plan"):
        tars = [
            _Tar(build, shard, layout, facts)
            for shard, ledger in build.ledgers()
            for layout, facts in ledger["tars"].items()
        ]
        name, prefix, store = str(build.manifest()["recipe"]["name"]), "", build.store
    else:
        release = Release(url)
        tars = list(_tars_of(release))
        name, prefix, store = f"release-{release.name}", f"{release.name}/", release.store
    return store, prefix, name, sorted(tars, key=lambda t: (t.shard.split, t.layout, t.build.url, t.shard.number))


def _tars_of(release: Release) -> Iterator[_Tar]:
    builds = release.builds()
    files = [
        build.store.read(f"manifests/{pinned['number']:04d}.json")
        for build, pinned in zip(builds, release.facts["builds"], strict=True)
    ]
    listed = [json.loads(data)["files"] for data in files]
    batches = read_batches(release)
    used = batches.group_by(["build", "split", "shard", "layout"]).aggregate([]).sort_by("build")
    for row in used.to_pylist():
        build, shard = builds[row["build"]], ShardName(row["split"], row["shard"])
        ledger = build.ledger(shard)
        facts = ledger["tars"].get(row["layout"]) if ledger else None
        promised = listed[row["build"]].get(shard.tar(row["layout"]), {}).get("sha256")
        if facts is None or facts["sha256"] != promised:
            raise FormatError(
                f"{build.url}/{shard.tar(row['layout'])} was rewritten after release {release.number} pinned it; make "
                "a new release"
            )
        yield _Tar(build, shard, row["layout"], facts, f"build{row['build']}/" if len(builds) > 1 else "")


def _wids(store: Store, prefix: str, name: str, tars: list[_Tar]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give path and content of the JSON file of every split and layout, in the form that wids calls version 1."""
    for split, layout in sorted({(tar.shard.split, tar.layout) for tar in tars}):
        mine = [tar for tar in tars if (tar.shard.split, tar.layout) == (split, layout)]
        shards = [
            {"url": _reference(tar, store, f"{prefix}wids"), "nsamples": tar.facts["samples"],
             "filesize": tar.facts["size"], "sha256": tar.facts["sha256"]}
            for tar in mine
        ]  # fmt: skip
        about = {"wids_version": 1, "name": f"{name}-{split}-{layout}", "shardlist": shards}
        yield f"{prefix}wids/{split}-{layout}.json", about


def _energon(store: Store, prefix: str, tars: list[_Tar]) -> Iterator[tuple[str, Any]]:
    """Give path and content of the three files of every layout's `.nv-meta`; JSON is YAML too."""
    for layout in sorted({tar.layout for tar in tars}):
        folder = f"{prefix}energon/{layout}"
        mine = [tar for tar in tars if tar.layout == layout]
        names = {tar.link if _is_linked(store, tar) else _reference(tar, store, folder): tar for tar in mine}
        counts = {name: tar.facts["samples"] for name, tar in names.items()}
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for name, tar in names.items():
            parts.setdefault(SPLITS.get(tar.shard.split, tar.shard.split), []).append(name)
        yield f"{folder}/.nv-meta/.info.json", {"shard_counts": counts}
        yield f"{folder}/.nv-meta/split.yaml", {"split_parts": parts, "exclude": []}
        yield f"{folder}/.nv-meta/dataset.yaml", SAMPLES[layout]


def _reference(tar: _Tar, store: Store, folder: str) -> str:
    """Return how a file in `folder` of `store` names a tar: relative where one disk or bucket holds both."""
    to, base = tar.build.store.path(tar.path), store.path(folder)
    one_bucket = store.is_local or to.split("/")[0] == base.split("/")[0]
    if type(store.fs) is type(tar.build.store.fs) and one_bucket:
        return posixpath.relpath(to, base)
    return f"{tar.build.store.absolute_url}/{tar.path}"


def _is_linked(store: Store, tar: _Tar) -> bool:
    return store.is_local and tar.build.store.is_local


def _put_offsets(store: Store, folder: str, tar: _Tar) -> bool:
    """Write a tar's offsets, beside a link to it where there are links; return whether anything was written."""
    if not _is_linked(store, tar):
        return _put(tar.build.store, f"{tar.path}.idx", _offsets(tar))
    written = _put(store, f"{folder}/{tar.link}.idx", _offsets(tar))
    link = store.local(f"{folder}/{tar.link}")
    to = os.path.relpath(tar.build.store.local(tar.path), link.parent)
    if link.is_symlink() and os.readlink(link) == to:
        return written
    link.unlink(missing_ok=True)
    link.symlink_to(to)
    return True


def _offsets(tar: _Tar) -> bytes:
    """Return where each sample's first header starts and where the last sample ends, as little-endian uint64."""
    index = tar.build.store.read_table(tar.shard.index(tar.layout), ["field", "offset", "size"])
    first = index.filter(pc.equal(index["field"], LAYOUTS[tar.layout][0]))
    starts = first["offset"].to_numpy() - BLOCK
    last = int(index["offset"][-1].as_py()) + int(index["size"][-1].as_py())
    return np.append(starts, last + -last % BLOCK).astype("<u8").tobytes()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _put(store: Store, path: str, data: bytes) -> bool:
    """Write a file unless it stands there as it should; return whether it was written."""
    if _stands(store, path, data):
        return False
    store.write(path, data)
    return True


def _stands(store: Store, path: str, data: bytes) -> bool:
    return store.exists(path) and store.size(path) == len(data) and sha256_hex(store.read(path)) == sha256_hex(data)
