"""The step media: what a stage may do to one medium, and what it may not do to its neighbours."""

from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import steps
from medloom.pipelines.carried import carry
from medloom.pipelines.media import ShardWork, build_shard
from medloom.pipelines.recipe import load_recipe
from medloom.schemas import b2nd
from medloom.schemas.build import Build
from medloom.schemas.errors import BugError
from medloom.schemas.shard import ShardName

STAGE = """
import os, signal, time
from collections.abc import Iterator
from dataclasses import dataclass
from medloom.schemas.medium import Medium


@dataclass(frozen=True)
class Odd:
    key: str = "pmc9000002-1-f1"
    version: str = "1"

    def __call__(self, medium: Medium) -> Iterator[Medium]:
        if medium.key == self.key:
            HERE
        yield medium
"""
TASK = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Broken:
    task = "broken"
    version = "1"
    asks = False

    def examples(self, unit, fingerprint, ask):
        yield from ()
        raise KeyError("what a patient is called")
"""


def odd(tmp_path: Path, what: str) -> str:
    """A recipe over papers with a stage that does `what` to one figure."""
    return sources.write_recipe(
        tmp_path / "odd.py", extra=STAGE.replace("HERE", what), stages="(Odd(), Measure())",
        sources='(Papers("papers", source + "/papers"),)',
    )  # fmt: skip


def tabled(tmp_path: Path, recipe: str, n: int = 6) -> Built:
    sources.write_papers(tmp_path / "source" / "papers", n)
    out = tmp_path / "out"
    return Built(
        tmp_path / "source",
        recipe,
        out,
        steps.tables(sources.step(out, tmp_path / "source", shard_bytes="4000"), recipe),
    )


def shard_of(built: Built, unit: str) -> ShardName:
    return next(s for s, units in built.build.shards.items() if unit in {u["unit"] for u in units})


@pytest.mark.parametrize("ray", ["none", pytest.param("local", marks=pytest.mark.slow)])
def test_a_bug_in_a_stage_stops_the_run_and_names_shard_key_and_stage(tmp_path: Path, ray: str):
    built = tabled(tmp_path, odd(tmp_path, 'raise ZeroDivisionError("Jane Doe")'))
    with pytest.raises(BugError) as fault:
        steps.media(sources.step(built.out, ray=ray))
    told, shard = str(fault.value), shard_of(built, "pmc9000002-1")
    for words in (f"shard {shard}", "stage Odd", "pmc9000002-1-f1", "ZeroDivisionError", "odd.py:"):
        assert words in told
    assert "Jane Doe" not in told
    assert "\n" not in told
    assert not (built.out / shard.ledger).exists()
    if ray == "none":
        done = [str(s) for s in built.build.shards if (built.out / s.ledger).exists()]
        assert done == [str(s) for s in built.build.shards if s < shard]
    mended = sources.write_recipe(tmp_path / "odd.py", extra=STAGE.replace("HERE", "pass"), stages="(Odd(), Measure())",
                                  sources='(Papers("papers", source + "/papers"),)')  # fmt: skip
    assert mended == built.recipe
    assert sources.rest(built.out)["counts"]["media"] == {"png": 6, "jpg": 4}


def test_a_stage_that_crashes_on_one_medium_costs_one_refusal(tmp_path: Path):
    built = tabled(tmp_path, odd(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)"))
    manifest = sources.rest(built.out)
    crashed = [row for row in built.build.refusals() if row["reason"] == "guard.crashed"]
    assert [row["key"] for row in crashed] == ["pmc9000002-1-f1"]
    assert "SIGSEGV" in crashed[0]["detail"]
    assert manifest["counts"]["flow"] == {"in": 12, "made": 0, "out": 9, "refused": 3}


def test_a_stage_that_never_ends_is_refused_after_its_time(tmp_path: Path):
    built = tabled(tmp_path, odd(tmp_path, "time.sleep(600)"))
    recipe = load_recipe(built.recipe, {"source": str(built.source), "shard_bytes": "4000"}).recipe
    shard = shard_of(built, "pmc9000002-1")
    how = carry(({s.name: s for s in recipe.sources}, recipe.stages))
    work = ShardWork(str(built.out), shard, tuple(built.build.shards[shard]), how, recipe.media_fingerprint())
    done = build_shard(replace(work, timeout_s=3.0))
    reasons = {row["key"]: row["reason"] for row in built.build.refusals()}
    assert reasons["pmc9000002-1-f1"] == "guard.timeout"
    assert "pmc9000002-1-f2" in built.build.index(shard)["key"].to_pylist()
    assert done.refused == sum(row["key"] in reasons for row in (built.build.ledger(shard) or {})["refused"])


def test_a_stage_that_gives_two_media_or_none_is_counted(tmp_path: Path):
    twice = """yield medium
            from dataclasses import replace
            medium = replace(medium, key=medium.key + "-twin")"""
    built = tabled(tmp_path, odd(tmp_path, twice), n=2)
    assert sources.rest(built.out)["counts"]["flow"] == {"in": 4, "made": 1, "out": 5, "refused": 0}
    (tmp_path / "none").mkdir()
    built = tabled(tmp_path / "none", odd(tmp_path / "none", "return"), n=2)
    manifest = sources.rest(built.out)
    assert manifest["counts"]["flow"] == {"in": 4, "made": 0, "out": 3, "refused": 1}
    assert manifest["counts"]["refused"] == {"stage.nothing": 1}


def test_a_label_map_that_does_not_fit_costs_only_itself(tmp_path: Path):
    folder = tmp_path / "source" / "scans"
    sources.write_nifti(folder / "brain.nii.gz", seed=1)
    sources.write_nifti(folder / "lone_seg.nii.gz", seed=1, is_mask=True)
    sources.write_nifti(folder / "twin.nii", seed=2)
    sources.write_nifti(folder / "twin.nii.gz", seed=3)
    import nibabel
    import numpy as np

    nibabel.save(nibabel.Nifti1Image(np.ones((5, 5, 5), np.uint8), np.eye(4)), folder / "brain_seg.nii.gz")
    recipe = sources.write_recipe(tmp_path / "scans.py", sources="(scans,)")
    manifest = sources.build(tmp_path / "out", recipe, tmp_path / "source")
    assert manifest["counts"]["media"] == {"volume": 2}
    assert manifest["counts"]["refused"] == {"seg.grid": 1, "seg.no_image": 1, "series.duplicate": 1}
    assert steps.gate(sources.step(tmp_path / "out")).success


def test_a_bug_in_a_task_names_task_shard_and_unit_and_not_what_it_read(tmp_path: Path):
    recipe = sources.write_recipe(
        tmp_path / "task.py",
        extra=TASK,
        tasks="(Captions(), Broken())",
        sources='(Papers("papers", source + "/papers"),)',
    )
    built = tabled(tmp_path, recipe, n=2)
    with pytest.raises(BugError, match=r"task broken, shard \w+-\d{6}, unit pmc\S+: KeyError at task.py:\d+") as fault:
        sources.rest(built.out)
    assert "patient" not in str(fault.value)


def test_other_questions_leave_every_tar_untouched(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    before = sources.facts_of(copied.out, among=("media", "index", "ledger", "tables", "plan"))
    other = sources.write_recipe(tmp_path / "both.py", tasks='(Captions(), HeaderQuestions(kinds=("modality",)))')
    steps.tables(sources.step(copied.out, copied.source), other)
    manifest = sources.rest(copied.out)
    assert sources.facts_of(copied.out, among=("media", "index", "ledger", "tables", "plan")) == before
    assert set(manifest["recipe"]["tasks"]) == {"caption", "header_vqa"}
    assert manifest["recipe"]["tasks"]["caption"] == built.manifest["recipe"]["tasks"]["caption"]
    assert manifest["recipe"]["tasks"]["header_vqa"] != built.manifest["recipe"]["tasks"]["header_vqa"]
    assert 0 < manifest["counts"]["examples"]["header_vqa"] < built.manifest["counts"]["examples"]["header_vqa"]
    ids = [set(b.examples("header_vqa")["example_id"].to_pylist()) for b in (built.build, copied.build)]
    assert not ids[0] & ids[1]


@pytest.mark.slow
def test_a_recipe_chooses_the_codec_of_its_volumes(tmp_path: Path):
    sources.write_scans(tmp_path / "source" / "scans")
    found = {}
    for codec in ("bytedelta_zstd1", "bitshuffle_lz4"):
        tasks = f'(Captions(),), codec="{codec}"'
        recipe = sources.write_recipe(tmp_path / f"{codec}.py", sources="(scans,)", tasks=tasks)
        sources.build(tmp_path / codec, recipe, tmp_path / "source")
        build = Build(str(tmp_path / codec))
        for shard, _ in build.ledgers():
            for row in build.index(shard).to_pylist():
                if row["field"] == "ct.b2nd":
                    found.setdefault(row["key"], []).append(build.member(row, shard))
    assert found
    for usual, fast in found.values():
        assert np.array_equal(b2nd.decode(usual), b2nd.decode(fast))
        assert blosc2.ndarray_from_cframe(usual).cparams.codec == blosc2.Codec.ZSTD
        assert blosc2.ndarray_from_cframe(fast).cparams.codec == blosc2.Codec.LZ4
