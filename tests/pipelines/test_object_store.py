"""On a real S3 server: one writer wins each commit, a killed run goes on, and everything is as it is on a disk."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pyarrow.compute as pc
import pytest
from tests import sources
from tests.builds import synthetic_release
from tests.pipelines.conftest import Built
from tests.services.s3 import s3_server

from medloom.pipelines.publish import publish
from medloom.pipelines.release import job
from medloom.pipelines.shard_extras import write_extras
from medloom.quality.lint import lint
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex
from medloom.schemas.store import Store
from medloom.schemas.tables import STATE

STARTED_S = 120.0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_server(monkeypatch) as url:
        yield url


@pytest.fixture
def remote(bucket: str, tmp_path: Path) -> str:
    """The synthetic build with its release, on the server."""
    upload(synthetic_release(tmp_path / "made", 12), f"{bucket}/build")
    return f"{bucket}/build"


def upload(folder: str | Path, url: str) -> None:
    store = Store(url)
    store.fs.put(f"{folder}/", f"{store.root}/", recursive=True)


def race(*writers) -> list:
    """Run all at the same moment; give what each returned or raised."""
    gate = threading.Barrier(len(writers))

    def one(write):
        gate.wait()
        try:
            return write()
        except FormatError as fault:
            return fault

    with ThreadPoolExecutor(len(writers)) as pool:
        return list(pool.map(one, writers))


def test_of_writers_that_create_the_same_object_one_wins(bucket):
    store = Store(bucket)
    for name in ("0001.json", "0002.json", "0003.json"):
        won = race(*(partial(Store(bucket).create, name, b"%d" % i) for i in range(4)))
        assert sorted(won) == [False, False, False, True]
        assert store.read(name) == b"%d" % won.index(True)
    assert not store.create("0001.json", b"later")


def test_of_two_runs_that_commit_the_same_state_one_is_told_so(remote):
    recipe = Build(remote).manifest()["recipe"]
    commit = partial(manifests.commit, recipe=recipe, known={})
    done = race(*(partial(commit, Store(remote), counts={"by": n}) for n in range(2)))
    (lost,) = [fault for fault in done if isinstance(fault, FormatError)]
    assert "was written by another run" in str(lost)
    (won,) = [manifest for manifest in done if not isinstance(manifest, FormatError)]
    assert Build(remote).manifest() == won


@pytest.mark.slow
def test_a_release_is_made_read_and_published_as_on_a_disk(remote, tmp_path):
    local = Release(str(tmp_path / "made" / "build"))
    release = Release(remote)
    facts = {"builds": [{**release.facts["builds"][0], "uri": remote}], "policy": {}}
    rows = release.rows.filter(pc.equal(release.rows["split"], "train"))
    write = partial(job.write_release, release.store, rows, STATE.empty_table())
    done = race(*(partial(write, {**facts, "policy": {"by": n}}) for n in range(2)))
    assert sorted(release.number for release in done) == [2, 3]  # neither writes into the other's folder
    assert sorted(release.facts["policy"]["by"] for release in done) == [0, 1]
    assert all(release.rows.num_rows == rows.num_rows for release in done)
    made = Release(remote)
    for row in made.rows.to_pylist():
        for layout, key, at in zip(row["layouts"], row["media"], row["media_at"], strict=True):
            members = ReleaseIndex(made, row["split"], layout).members(at)
            assert members == ReleaseIndex(local, row["split"], layout).members(at)
            assert {member["key"] for member in members} == {key}
    job.overlay(made.url, ["medium:u00000-f0"], state="withheld", reason="blurred", by="curator")
    done = publish(Release(remote), f"{remote}-public")
    assert done.rewritten == 1
    public = Build(f"{remote}-public")
    assert lint(public, release=Release(public.url)) == []
    assert "u00000-f0" not in public.index(columns=["key"])["key"].to_pylist()
    before = manifests.list_files(public.store)
    assert write_extras(public.url, wids=True, energon=True).written
    assert manifests.list_files(public.store) == before


@pytest.mark.slow
@pytest.mark.parametrize("objects", [1, 4, 9])
def test_media_killed_on_the_server_and_run_again_give_the_same_bytes(built: Built, bucket, tmp_path, objects):
    copied = built.copied(tmp_path)
    for name in ("media", "index", "ledger", "examples"):
        fsspec.filesystem("file").rm(str(copied.out / name), recursive=True)
    upload(copied.out, f"{bucket}/out")
    store = Store(f"{bucket}/out")
    killed(["media", store.url, "--ray-address", "none"], store, objects)
    assert 0 < len(stands(store)) < len([n for n in built.manifest["files"] if n.split("/")[0] in WRITTEN])
    manifest = sources.rest(store.url)
    assert manifest["files"] == built.manifest["files"]


WRITTEN = ("media", "index", "ledger")


def stands(store: Store) -> list[str]:
    return [f"{folder}/{name}" for folder in WRITTEN for name in store.names(folder)]


def killed(arguments: list[str], store: Store, objects: int) -> None:
    """Run `medloom` in a process group of its own and kill the group once the server holds so many of its objects."""
    with subprocess.Popen([sys.executable, "-m", "medloom", *arguments], start_new_session=True) as process:
        latest = time.monotonic() + STARTED_S
        while process.poll() is None and len(stands(store)) < objects and time.monotonic() < latest:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
