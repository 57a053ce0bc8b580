import hashlib
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.pipelines.small_builds import Made, Paper, small_build

from medloom.model.stream import ShardStream
from medloom.pipelines.release import job
from medloom.pipelines.release.states import Policy
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, GateError, RetryLater, SourceError
from medloom.schemas.origin import TERMS
from medloom.schemas.release import Release

MASTER = "local[2]"


def release(*urls: str, to: str, **policy) -> Release:
    return job.make_release(list(urls), to, policy=Policy(**policy), master=MASTER)


def live(made: Release) -> list[str]:
    """Media of live examples, one each."""
    return sorted(row["media"][0] for row in made.live_rows().to_pylist())


def reasons(made: Release) -> dict[str, str]:
    table = made.store.read_table(f"{made.name}/states.parquet")
    return {row["id"]: row["reason"] for row in table.to_pylist()}


def digests(folder: str | Path) -> dict[str, str]:
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """One build with every reason to withhold, and its release."""
    made = small_build(
        tmp_path_factory.mktemp("varied") / "out",
        Paper("good", pixels=(1, 2)),
        Paper("tiny", pixels=(3,), side=20),
        Paper("leaks", pixels=(4,)),
        Paper("held-out", split="test", pixels=(4,)),
        Paper("also-held-out", split="validation", pixels=(4,)),
        Paper("first", pixels=(5,)),
        Paper("second", pixels=(5,)),
        Paper("yes", pixels=(6,), labels=("yes",)),
        Paper("no", pixels=(6,), labels=("no",)),
        Paper("no-licence", pixels=(7,), terms_id="unknown"),
        Paper("not-for-sale", pixels=(8,), terms_id="cc-by-nc"),
        Paper("retracted", pixels=(9,), is_retracted=True, shard=1),
    )
    return made, release(made.url, to=f"{made.url}/releases")


def test_a_release_holds_every_example_once_and_sorted(varied):
    made, found = varied
    ids = found.rows["example_id"].to_pylist()
    assert ids == sorted(set(ids))
    assert set(ids) == set(Build(made.url).examples()["example_id"].to_pylist())
    for row in found.rows.to_pylist():
        stored = pq.read_table(f"{made.url}/{row['part']}").to_pylist()[row["row"]]
        assert stored["example_id"] == row["example_id"]
        assert (row["layouts"], row["modalities"]) == (["png"], ["figure"])
        assert row["shapes"] == (["20x20x3"] if row["group"] == "tiny" else ["72x72x3"])
        assert row["tier"] == ("rule" if stored["labels"] else "source")


def test_each_reason_withholds_what_it_should_and_nothing_else(varied):
    assert reasons(varied[1]) == {
        "tiny-f1": "size.side",
        "leaks-f1": "duplicate.across_splits",
        "also-held-out-f1": "duplicate.across_splits",
        "second-f1": "duplicate.exact",
        "no-licence-f1": "terms.unknown",
        "terms_id=unknown": "terms.unknown",
        "retracted": "article.retracted",
    }
    assert live(varied[1]) == [
        "first-f1", "good-f1", "good-f2", "held-out-f1", "no-f1", "not-for-sale-f1", "yes-f1",
    ]  # fmt: skip


def test_the_same_scan_of_two_sets_is_found_by_its_voxels_though_stored_otherwise(tmp_path):
    liver, spleen = (("liver", "", 40),), (("spleen", "", 7),)
    made = small_build(
        tmp_path / "out",
        Paper("lits", pixels=(1,), voxels="one", drawn=liver),
        Paper("atlas", pixels=(2,), voxels="one", drawn=spleen, split="test"),
        Paper("kits-a", pixels=(3,), voxels="two", drawn=liver),
        Paper("kits-b", pixels=(4,), voxels="two", drawn=liver),
        Paper("organs", pixels=(5,), voxels="three", drawn=liver),
        Paper("tumors", pixels=(6,), voxels="three", drawn=spleen),
        Paper("crops", pixels=(7, 8), voxels="four"),
        Paper("picture", pixels=(9,)),
        Paper("other-picture", pixels=(10,)),
        Paper("pair-a", pixels=(11,), voxels="five"),
        Paper("pair-b", pixels=(11,), voxels="five"),
    )
    found = release(made.url, to=str(tmp_path / "rel"))
    said = found.store.read_table("0001/states.parquet").to_pylist()
    assert [(row["id"], row["reason"], row["by"]) for row in said if row["scope"] == "medium"] == [
        ("kits-b-f1", "duplicate.exact", "voxels"),
        ("lits-f1", "duplicate.across_splits", "voxels"),
        ("pair-b-f1", "duplicate.exact", "pixels"),
    ]
    allowed = release(made.url, to=str(tmp_path / "allowed"), duplicates=False)
    assert reasons(allowed) == {"lits-f1": "duplicate.across_splits", "terms_id=unknown": "terms.unknown"}


def test_counts_are_those_of_the_rows(varied):
    counts = varied[1].facts["counts"]
    assert counts["rows"] == varied[1].rows.num_rows == 13
    assert counts["live"] == {"test": 1, "train": 6}
    assert counts["tasks"] == {"caption": 7}
    assert counts["withheld"] == {
        "size.side": 1, "duplicate.across_splits": 2, "duplicate.exact": 1, "terms.unknown": 2, "article.retracted": 1,
    }  # fmt: skip


def test_a_policy_can_forbid_sale_and_allow_duplicates_but_not_across_splits(varied, tmp_path):
    made, _ = varied
    found = release(made.url, to=str(tmp_path / "rel"), commercial=True, checks=False, duplicates=False)
    said = found.store.read_table("0001/states.parquet").to_pylist()
    assert {row["id"] for row in said if row["reason"] == "terms.non_commercial"} == {
        "not-for-sale-f1",
        *(f"terms_id={name}" for name, terms in TERMS.items() if not terms.commercial and name != "unknown"),
    }
    assert {row["id"]: row["reason"] for row in said if row["reason"] != "terms.non_commercial"} == {
        "leaks-f1": "duplicate.across_splits", "also-held-out-f1": "duplicate.across_splits",
        "no-licence-f1": "terms.unknown", "terms_id=unknown": "terms.unknown", "retracted": "article.retracted",
    }  # fmt: skip
    assert "tiny-f1" in live(found)
    assert "second-f1" in live(found)


def test_the_same_inputs_give_the_same_number_and_touch_nothing(varied):
    made, found = varied
    before = digests(f"{made.url}/releases")
    assert release(made.url, made.url + "/", to=f"{made.url}/releases").number == found.number == 1
    assert digests(f"{made.url}/releases") == before


def test_a_release_whose_rows_were_damaged_is_made_anew(two):
    made, found = two
    rows = Path(found.url, "0001/rows.parquet")
    rows.write_bytes(rows.read_bytes()[:-9])
    again = release(made.url, to=found.url)
    assert again.number == 2
    assert live(again) == ["a-f1", "a-f2", "b-f1"]


def test_another_policy_is_the_next_release_and_names_its_parent(tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,)))
    first = release(made.url, to=str(tmp_path / "rel"))
    second = release(made.url, to=str(tmp_path / "rel"), checks=False)
    assert (second.number, second.facts["parent"]) == (2, first.digest)
    assert Release(str(tmp_path / "rel")).number == 2
    assert Release(str(tmp_path / "rel"), number=1).digest == first.digest


def test_a_run_killed_before_release_json_leaves_no_release_and_no_gap(tmp_path, monkeypatch):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,)))
    unbroken = release(made.url, to=str(tmp_path / "whole"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medloom.schemas.store.Store.create", killed)
        with pytest.raises(KeyboardInterrupt):
            release(made.url, to=str(tmp_path / "rel"))
    assert (tmp_path / "rel/0001/rows.parquet").is_file()
    with pytest.raises(SourceError, match="holds no release"):
        Release(str(tmp_path / "rel"))
    again = release(made.url, to=str(tmp_path / "rel"))
    assert again.number == 1
    assert digests(tmp_path / "rel") == digests(tmp_path / "whole")
    assert unbroken.digest == again.digest


def test_two_runs_do_not_take_the_same_number(tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,)))
    found = release(made.url, to=str(tmp_path / "rel"))
    with job._locked(found.store), pytest.raises(RetryLater, match="another run"):
        release(made.url, to=str(tmp_path / "rel"), checks=False)


def test_two_builds_make_one_release_and_the_first_wins(tmp_path):
    a = small_build(tmp_path / "a", Paper("one", pixels=(1,)), Paper("two", pixels=(2,)))
    b = small_build(tmp_path / "b", Paper("two", pixels=(2,)), Paper("three", pixels=(3,)), Paper("x-one", pixels=(1,)))
    found = release(a.url, b.url, to=str(tmp_path / "rel"))
    assert {row["media"][0]: row["build"] for row in found.rows.to_pylist()} == {
        "one-f1": 0, "two-f1": 0, "three-f1": 1, "x-one-f1": 1
    }  # fmt: skip
    assert reasons(found)["x-one-f1"] == "duplicate.exact"
    assert live(found) == ["one-f1", "three-f1", "two-f1"]
    assert [b.url for b in found.builds()] == [a.url, b.url]
    swapped = release(b.url, a.url, to=str(tmp_path / "swapped"))
    assert reasons(swapped)["one-f1"] == "duplicate.exact"


def test_examples_of_another_generator_over_the_same_media_all_stay(tmp_path):
    papers = [Paper("one", pixels=(1,)), Paper("two", pixels=(2,))]
    a, b = small_build(tmp_path / "a", *papers), small_build(tmp_path / "b", *papers, generator="captions:2")
    found = release(a.url, b.url, to=str(tmp_path / "rel"))
    assert live(found) == ["one-f1", "one-f1", "two-f1", "two-f1"]


def test_a_group_that_two_builds_split_differently_leaves_training(tmp_path):
    a = small_build(tmp_path / "a", Paper("one", group="g", pixels=(1,)), Paper("free", pixels=(9,)))
    b = small_build(
        tmp_path / "b",
        Paper("two", group="g", split="test", pixels=(2,)),
        Paper("one", group="g", split="test", pixels=(1,)),
        generator="captions:2",
    )
    found = release(a.url, b.url, to=str(tmp_path / "rel"))
    assert reasons(found)[a.caption("one-f1")] == "group.across_splits"
    assert {(r["split"], r["media"][0]) for r in found.live_rows().to_pylist()} == {
        ("train", "free-f1"), ("test", "two-f1"), ("test", "one-f1")
    }  # fmt: skip


def test_a_key_with_other_bytes_in_another_build_keeps_the_facts_of_its_own(tmp_path):
    a = small_build(tmp_path / "a", Paper("one", pixels=(1,), side=72))
    b = small_build(tmp_path / "b", Paper("one", pixels=(2,), side=90), generator="captions:2")
    found = release(a.url, b.url, to=str(tmp_path / "rel"))
    assert {row["build"]: row["shapes"] for row in found.rows.to_pylist()} == {0: ["72x72x3"], 1: ["90x90x3"]}


def test_a_release_of_nothing_live_says_so(tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,), terms_id="unknown"))
    found = release(made.url, to=str(tmp_path / "rel"))
    with pytest.raises(GateError, match=r"keeps none of its 1 examples: 2 terms\.unknown"):
        job.must_be_live(found)


def test_a_build_without_media_or_examples_makes_an_empty_release(tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=()))
    assert release(made.url, to=str(tmp_path / "rel")).rows.num_rows == 0


def test_what_is_no_build_cannot_be_released(tmp_path):
    with pytest.raises(SourceError, match="is not a build"):
        release(str(tmp_path), to=str(tmp_path / "rel"))


@pytest.fixture(scope="module")
def two_once(tmp_path_factory):
    made = small_build(tmp_path_factory.mktemp("two") / "out", Paper("a", pixels=(1, 2)), Paper("b", pixels=(3,)))
    release(made.url, to=f"{made.url}/releases")
    return made


@pytest.fixture
def two(two_once, tmp_path):
    """A build and its release, moved elsewhere, which a test may change."""
    made = Made(str(shutil.copytree(two_once.url, tmp_path / "out")), two_once.task_print)
    return made, Release(made.url)


def test_an_overlay_withholds_lifts_and_withdraws_without_touching_a_byte(two):
    made, found = two
    before = digests(f"{made.url}/media") | digests(f"{found.url}/0001")
    say = {"reason": "because", "by": "curator:x"}
    job.overlay(found.url, ["medium:a-f1", "group:b"], state="withheld", **say)
    assert live(found) == ["a-f2"]
    job.overlay(found.url, ["medium:a-f1"], state="live", **say)
    assert live(found) == ["a-f1", "a-f2"]
    job.overlay(found.url, [f"example:{made.caption('a-f2')}"], state="withdrawn", **say)
    assert live(found) == ["a-f1"]
    with pytest.raises(ConfigError, match="for good"):
        job.overlay(found.url, [f"example:{made.caption('a-f2')}"], state="live", **say)
    job.overlay(found.url, ["query:task=caption,split=train"], state="withheld", **say)
    assert live(found) == []
    assert digests(f"{made.url}/media") | digests(f"{found.url}/0001") == before
    assert len(list(Path(found.url, "overlay").iterdir())) == 5


def test_an_overlay_holds_for_releases_made_after_it(two):
    made, found = two
    job.overlay(found.url, ["medium:a-f1"], state="withdrawn", reason="asked by its author", by="curator")
    later = release(made.url, to=found.url, checks=False)
    assert later.number == 2
    assert live(later) == ["a-f2", "b-f1"]


@pytest.mark.parametrize(
    ("subject", "reason", "says"),
    [
        ("medium:a-f1", "", "needs --reason"),
        ("a-f1", "x", "is not SCOPE:ID"),
        ("patient:a", "x", "scopes are example, medium, group, query"),
        ("query:colour=red", "x", "columns are example_id"),
        ("query:task", "x", "is not column=value"),
        ("medium:no-such", "x", "holds no medium 'no-such'"),
    ],
)
def test_a_mistaken_overlay_is_refused_in_one_sentence(two, subject, reason, says):
    with pytest.raises(ConfigError, match=says):
        job.overlay(two[1].url, [subject], state="withheld", reason=reason, by="curator")
    assert len(list(Path(two[1].url, "overlay").iterdir())) == 1


def test_a_withheld_key_is_not_streamed_and_no_tar_changes(two):
    made, found = two
    before = digests(f"{made.url}/media")

    def streamed() -> set[str]:
        batches = ShardStream(found.url, split="train", global_batch=2, seed=1)
        return {key for batch in batches for example in batch.examples for key in example.media}

    assert streamed() == {"a-f1", "a-f2", "b-f1"}
    job.overlay(found.url, ["medium:a-f1"], state="withheld", reason="blurred", by="curator")
    assert streamed() == {"a-f2", "b-f1"}
    assert digests(f"{made.url}/media") == before
