"""The recipe for public sets builds several of them at once, from the folder that holds them."""

import json
import shutil
from collections import Counter

import pytest
from tests.pipelines import set_skeletons as sk
from tests.sources import build, rest, step

from medloom.pipelines import steps
from medloom.pipelines.recipe import load_recipe
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError


def test_the_recipe_finds_the_sets_of_a_folder_and_their_place_decides_nothing(tmp_path):
    prints = set()
    for place in ("a", "b"):
        for number in ("0002", "0006"):
            sk.write_plain(tmp_path / place / sk.PLAIN[number].folder, sk.PLAIN[number])
        recipe = load_recipe("m3d_seg", {"source": str(tmp_path / place)}).recipe
        assert [source.name for source in recipe.sources] == ["amos22", "kits19"]
        prints.add(recipe.media_fingerprint())
    assert len(prints) == 1
    alone = load_recipe("m3d_seg", {"source": str(tmp_path / "a"), "set": "0006"}).recipe
    assert [source.name for source in alone.sources] == ["kits19"]


def test_an_unknown_set_lists_those_that_are_known(tmp_path):
    with pytest.raises(ConfigError, match=r"no public set 'lits'; known are chaos \(0000\), han-seg \(0001\)"):
        load_recipe("m3d_seg", {"source": str(tmp_path), "set": "lits"})


@pytest.mark.slow
def test_two_sets_are_built_with_their_masks_splits_and_refusals(tmp_path):
    public = tmp_path / "public"
    sk.write_plain(public / "AMOS22", sk.PLAIN["0002"])
    sk.write_plain(public / "sliver", sk.PLAIN["0016"])
    shutil.make_archive(str(public / "sliver/training-scans"), "zip", public / "sliver", "training-scans")
    shutil.rmtree(public / "sliver/training-scans")
    manifest = build(tmp_path / "out", "m3d_seg", public)
    made = Build(str(tmp_path / "out"))

    groups = {row["unit"]: row for row in made.table("group").to_pylist()}
    assert {unit: (row["split"], row["split_by"]) for unit, row in groups.items() if row["source"] == "amos22"} == {
        "amos22-0004": ("train", "official"), "amos22-0500": ("validation", "official"),
        "amos22-0507": ("train", "official"), "amos22-5513": ("test", "official"),
    }  # fmt: skip
    assert {row["split_by"] for row in groups.values() if row["source"] == "sliver07"} == {"hash"}
    assert manifest["counts"]["media"] == {"volume": 5, "volume-seg": 2}
    refused = Counter(r["reason"] for _, ledger in made.ledgers() for r in ledger["refused"])
    assert refused == {"seg.missing": 2, "seg.grid": 2}
    assert Counter(row["reason"] for row in made.table("quarantine").to_pylist()) == {
        "source.hidden_file": 2, "set.extra_file": 2, "set.unused": 1,
    }  # fmt: skip

    rows = {row["key"]: row for row in made.index().to_pylist() if row["field"] == "seg.b2nd"}
    assert set(rows) == {"amos22-0004", "sliver07-001"}
    kidneys = {row["side"]: row["voxels"] for row in rows["amos22-0004"]["labels"] if row["name"] == "kidney"}
    assert kidneys == {"right": 4, "left": 5}
    assert rows["amos22-0004"]["units"] == "HU"
    assert len(rows["amos22-0004"]["voxel_digest"]) == 64
    sections = made.examples().to_pylist()
    assert {row["task"] for row in sections} >= {"segmentation", "region_vqa"}
    assert any("spleen" in json.dumps(row["turns"]) for row in sections)

    before = {str(shard): ledger["digest"] for shard, ledger in made.ledgers()}
    sk.write(public / "AMOS22/amos22/labelsVa/amos_0500.nii.gz", sk.classes(range(1, 16)), sk.affine(1))
    steps.tables(step(tmp_path / "out", public), "m3d_seg")
    rest(tmp_path / "out")
    after = {str(shard): ledger["digest"] for shard, ledger in made.ledgers()}
    assert {shard for shard in after if after[shard] != before[shard]} == {"validation-000000"}
    assert "amos22-0500" in {row["key"] for row in made.index().to_pylist() if row["field"] == "seg.b2nd"}
