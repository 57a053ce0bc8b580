"""SIGKILL at twenty moments of the command lines, each followed by running again: the newest manifest is the same one.

A moment is a number of files under the build, partial ones included, so that it does not depend on the machine's speed.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import steps

pytestmark = pytest.mark.slow
STARTED_S = 120.0  # by then the first file must have come


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("small")
    source, recipe = sources.write_both(folder / "source", 4), sources.write_recipe(folder / "both.py")
    out = folder / "out"
    return Built(source, recipe, out, sources.build(out, recipe, source, shard_bytes="6000"))


@pytest.mark.parametrize("moment", [1, 4, 9, 13])
def test_tables_killed_and_run_again_give_the_same_manifest(small: Built, tmp_path: Path, moment: int):
    out = tmp_path / "out"
    command = ["tables", small.recipe, "--to", str(out), "--set", f"source={small.source}", "--set", "shard_bytes=6000"]
    assert killed([*command, "--spark-master", "local[2]"], out, files=moment)
    assert again(small, out) == small.manifest


@pytest.mark.parametrize("more", [1, 2, 3, 5, 8, 11, 14, 18, 22])
def test_media_killed_and_run_again_give_the_same_manifest(small: Built, tmp_path: Path, more: int):
    out = without(small, tmp_path / "out", "media", "index", "ledger", "examples", "private/seen", committed=1)
    assert killed(["media", str(out), "--ray-address", "none"], out, files=count(out) + more)
    assert again(small, out) == small.manifest


@pytest.mark.parametrize("more", [1, 9])
def test_media_rebuilt_killed_and_run_again_give_the_same_manifest(small: Built, tmp_path: Path, more: int):
    """The tars of the changed shard are there when it is killed, so that old and new could be mixed."""
    out = without(small, tmp_path / "out", "examples", "ledger", committed=1)
    assert killed(["media", str(out), "--ray-address", "none"], out, files=count(out) + more)
    assert again(small, out) == small.manifest


def test_a_rebuild_that_was_killed_goes_on_without_saying_rebuild_again(small: Built, tmp_path: Path):
    """Else tars of two fingerprints would stand under ledgers of the older one, ready to be adopted."""
    out = sources.copy(small.out, tmp_path / "out")
    recipe = sources.write_recipe(tmp_path / "both.py", stages='(Measure(version="other"),)')
    steps.tables(sources.step(out, small.source, shard_bytes="6000"), recipe)
    fresh = sources.build(tmp_path / "fresh", recipe, small.source, shard_bytes="6000")
    stands = {path: path.stat().st_ino for path in (out / "media").iterdir()}
    command = ["media", str(out), "--rebuild", "--ray-address", "none"]
    assert killed(command, out, until=lambda: any(p.stat().st_ino != ino for p, ino in stands.items()))
    assert sources.state_of(sources.rest(out)) == sources.state_of(fresh)


@pytest.mark.parametrize("more", [1, 6, 15])
def test_examples_killed_and_run_again_give_the_same_manifest(small: Built, tmp_path: Path, more: int):
    out = without(small, tmp_path / "out", "examples", committed=2)
    assert killed(["examples", str(out), "--ray-address", "none"], out, files=count(out) + more)
    assert again(small, out) == small.manifest


@pytest.mark.parametrize("more", [2, 12])
def test_media_on_ray_killed_and_run_again_at_once_give_the_same_manifest(small: Built, tmp_path: Path, more: int):
    """Ray's workers write on for seconds after their driver was killed, while the next run writes already."""
    out = without(small, tmp_path / "out", "media", "index", "ledger", "examples", "private/seen", committed=1)
    assert killed(["media", str(out), "--ray-address", "local"], out, files=count(out) + more)
    assert again(small, out) == small.manifest
    time.sleep(5)  # until the workers are gone
    assert again(small, out) == small.manifest


def again(small: Built, out: Path) -> dict[str, Any]:
    """Run all steps again, as `medloom build` does; return the newest manifest."""
    return sources.build(out, small.recipe, small.source, shard_bytes="6000")


def without(small: Built, out: Path, *folders: str, committed: int) -> Path:
    """Copy the build to `out` as it stood after its manifest `committed`, without the folders that came later."""
    shutil.copytree(small.out, out)
    for name in folders:
        shutil.rmtree(out / name)
    for manifest in sorted((out / "manifests").iterdir())[committed:]:
        manifest.unlink()
    shutil.copyfile(out / f"manifests/{committed:04d}.json", out / "manifest.json")
    return out


def killed(arguments: list[str], out: Path, *, files: int = 0, until: Callable[[], bool] | None = None) -> bool:
    """Run `medloom` in a process group of its own and kill the group once `out` holds so many files; whether it could.

    `until` says it instead of a number of files.
    """
    come = until or (lambda: count(out) >= files)
    with subprocess.Popen(
        [sys.executable, "-m", "medloom", *arguments], start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        latest = time.monotonic() + STARTED_S
        while process.poll() is None and not come() and time.monotonic() < latest:
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def count(folder: Path) -> int:
    return sum(1 for _ in _files(str(folder)))


def _files(folder: str) -> Iterator[str]:
    for _, _, names in os.walk(folder):
        yield from names
