import hashlib
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.pipelines.scan_builds import scan_release, small_media
from tests.pipelines.small_builds import Made, Paper, small_build

from medloom.pipelines.publish import Published, publish, samples
from medloom.pipelines.release import job
from medloom.pipelines.release.states import Policy
from medloom.quality.lint import lint
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.release import Release
from medloom.schemas.release_index import ReleaseIndex
from medloom.schemas.shard import shard_name

PAPERS = (
    Paper("open", pixels=(1, 2)),
    Paper("open-too", pixels=(3,), refused=("open-too-secret",)),
    Paper("taken-down", pixels=(4,)),
    Paper("private", pixels=(5,), terms_id="private", shard=1),
    Paper("untouched", pixels=(6, 7), shard=2),
    Paper("held-out", pixels=(8,), split="test"),
    Paper("no-changes", pixels=(9,), terms_id="cc-by-nd", labels=("asked",)),
    Paper("changed", pixels=(10,), terms_id="cc-by-nd", reencoded=True, shard=1),
)
NAMED_NOWHERE = ("taken-down", "private-f1", "open-f2", "open-too-secret", "changed-f1")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    made = small_build(tmp_path_factory.mktemp("released") / "out", *PAPERS)
    job.make_release([made.url], f"{made.url}/releases", policy=Policy(), master="local[2]")
    return made


@pytest.fixture
def build(released, tmp_path) -> Made:
    return Made(str(shutil.copytree(released.url, tmp_path / "out")), released.task_print)


@pytest.fixture
def published(build, tmp_path) -> tuple[Made, Published, Build]:
    job.overlay(f"{build.url}/releases", ["medium:open-f2"], state="withheld", reason="blurred", by="curator")
    job.overlay(f"{build.url}/releases", ["group:taken-down"], state="withdrawn", reason="asked", by="curator")
    done = publish(Release(build.url), str(tmp_path / "public"))
    return build, done, Build(str(tmp_path / "public"))


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_what_goes_out_and_what_stays_back_add_up(published):
    build, done, _ = published
    assert done.media_kept_back == {
        "withheld": 1, "withdrawn": 1, "terms.private": 1, "terms.cc-by-nd.changed": 1,
    }  # fmt: skip
    assert done.examples_kept_back == {
        "withheld": 1, "withdrawn": 1, "terms.private": 1, "terms.cc-by-nd.changed": 1, "media_kept_back": 1,
    }  # fmt: skip
    media = len(set(Build(build.url).index()["key"].to_pylist()))
    assert (done.media, media) == (6, 10)
    assert done.media + sum(done.media_kept_back.values()) == media
    assert done.examples + sum(done.examples_kept_back.values()) == Release(build.url).rows.num_rows


def test_untouched_tars_are_copies_and_touched_ones_hold_what_is_left(published):
    build, done, out = published
    assert (done.copied, done.rewritten) == (2, 1)
    for name in ("media/train-png-000002.tar", "media/test-png-000000.tar", "index/train-png-000002.parquet"):
        assert sha256(f"{out.url}/{name}") == sha256(f"{build.url}/{name}")
    shard = shard_name("train-000000")
    before = {(r["key"], r["field"]): r for r in Build(build.url).index(shard).to_pylist()}
    after = out.index(shard).to_pylist()
    assert sorted({row["key"] for row in after}) == ["no-changes-f1", "open-f1", "open-too-f1"]
    for row in after:
        assert out.member(row, shard) == Build(build.url).member(before[row["key"], row["field"]], shard)
    assert not Path(f"{out.url}/media/train-png-000001.tar").exists()


def test_a_rewritten_index_says_all_that_it_said_and_the_release_has_its_own(tmp_path):
    made = scan_release(tmp_path, small_media())
    job.overlay(made.url, ["medium:scan-b"], state="withheld", reason="blurred", by="curator")
    assert publish(Release(made.url), str(tmp_path / "public")).rewritten == 1
    before = {(row["key"], row["field"]): row for row in made.builds()[0].index().to_pylist()}
    out = Build(str(tmp_path / "public"))
    after = {(row["key"], row["field"]): row for row in out.index().to_pylist()}
    assert {key for key, _ in after} == {"scan-a", "scan-c", "scan-d", "scan-p"}
    for place, row in after.items():
        assert {**row, "offset": 0} == {**before[place], "offset": 0}
    assert after["scan-a", "ct.b2nd"]["labels"]
    assert len(after["scan-a", "ct.b2nd"]["affine"]) == 16
    assert after["scan-a", "seg.b2nd"]["chunk_sizes"]
    for row in Release(out.url).rows.to_pylist():
        for layout, key, at in zip(row["layouts"], row["media"], row["media_at"], strict=True):
            for member in ReleaseIndex(Release(out.url), row["split"], layout).members(at):
                stored = after[key, member["field"]]
                assert member == {name: stored.get(name, 0) for name in member}


def test_chunks_of_an_older_build_get_their_checksums_when_a_tar_is_rewritten(tmp_path):
    made = scan_release(tmp_path, small_media())
    build = made.builds()[0]
    row = next(r for r in build.index().to_pylist() if r["key"] == "scan-a" and r["field"] == "ct.b2nd")
    older = {**row, "chunk_sizes": None, "chunk_crc32c": None}
    (sample,) = samples(build, shard_name("train-000000"), [
        older if (r["key"], r["field"]) == ("scan-a", "ct.b2nd") else r
        for r in build.index().to_pylist() if r["key"] == "scan-a"
    ])  # fmt: skip
    assert list(sample.members["ct.b2nd"].chunk_sizes) == row["chunk_sizes"]
    assert list(sample.members["ct.b2nd"].chunk_crc32c) == row["chunk_crc32c"]


def test_nothing_that_stays_back_is_named_in_what_goes_out(published):
    build, _, out = published
    folders = {p.name for p in Path(out.url).iterdir()}
    assert folders == {
        "plan", "tables", "media", "index", "ledger", "examples", "manifests", "manifest.json", "releases", "README.md",
        "croissant.json",
    }  # fmt: skip
    for file in (p for p in Path(out.url).rglob("*") if p.is_file()):
        told = _text_of(file)
        assert not [name for name in NAMED_NOWHERE if name in told], file
    assert any("open-f2" in _text_of(p) for p in Path(build.url, "index").iterdir())  # the search does find


def _text_of(file: Path) -> str:
    if file.suffix == ".parquet":
        return repr(pq.read_table(file).to_pylist()) + repr(pq.read_schema(file).metadata)
    return file.read_bytes().decode("latin-1")


def test_what_was_published_is_a_build_and_a_release_of_its_own(published):
    build, done, out = published
    release = Release(out.url)
    assert lint(out, release=release) == []
    assert release.builds()[0].store.root == out.store.root
    assert release.live_rows().num_rows == release.rows.num_rows == done.examples == 5
    assert release.facts["published_from"]["digest"] == Release(build.url).digest
    stored = {row["example_id"]: row for row in Build(build.url).examples().to_pylist()}
    for row in release.rows.to_pylist():
        assert pq.read_table(f"{out.url}/{row['part']}").to_pylist()[row["row"]] == stored[row["example_id"]]
    assert out.manifest()["counts"]["media"] == {"png": 6}
    assert [a["attribution"] for a in out.table("article").to_pylist()] == ["A. Author"] * 5


def test_a_published_release_can_be_published_again_as_it_is(published, tmp_path):
    _, done, out = published
    again = publish(Release(out.url), str(tmp_path / "again"))
    assert (again.media, again.examples) == (done.media, done.examples)
    assert (again.rewritten, again.media_kept_back, again.examples_kept_back) == (0, {}, {})


def test_a_query_keeps_media_back_as_well_as_rows(build, tmp_path):
    job.overlay(f"{build.url}/releases", ["query:split=test"], state="withheld", reason="hidden", by="curator")
    done = publish(Release(build.url), str(tmp_path / "public"))
    assert done.media_kept_back["withheld"] == 1
    assert not list((tmp_path / "public/media").glob("test-*"))
    assert b"held-out" not in (tmp_path / "public/plan/part-00000.parquet").read_bytes()


def test_media_of_withheld_examples_stay_back(build, tmp_path):
    job.overlay(f"{build.url}/releases", ["query:task=caption,group=open"], state="withheld", reason="x", by="curator")
    done = publish(Release(build.url), str(tmp_path / "public"))
    assert done.media_kept_back["no_live_example"] == 2
    assert done.examples_kept_back["withheld"] == 2


def test_media_without_an_example_go_out_when_their_terms_allow(tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,)), Paper("b", pixels=(2,), terms_id="cc-by-nd"))
    part = next(Path(made.url, "examples").rglob("*.parquet"))
    pq.write_table(pq.read_table(part).slice(0, 0), part)
    release = job.make_release([made.url], str(tmp_path / "rel"), policy=Policy(), master="local[2]")
    done = publish(release, str(tmp_path / "public"))
    assert (done.media, done.examples) == (2, 0)


def _only(released, group: str, folder: Path) -> Release:
    """A release in which all but one group is withheld."""
    copy = str(shutil.copytree(released.url, folder / "only"))
    others = [f"group:{p.of}" for p in PAPERS if p.of != group]
    job.overlay(f"{copy}/releases", others, state="withheld", reason="x", by="curator")
    return Release(copy)


def test_publishing_nothing_or_into_a_used_folder_is_refused(released, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        publish(Release(released.url), str(tmp_path / "used"))
    with pytest.raises(GateError, match=r"may be published: .*terms\.private"):
        publish(_only(released, "private", tmp_path), str(tmp_path / "public"))
    assert not (tmp_path / "public").exists()


def test_a_release_of_two_builds_is_not_published_at_once(released, tmp_path):
    other = small_build(tmp_path / "other", Paper("x", pixels=(11,)))
    both = job.make_release([released.url, other.url], str(tmp_path / "rel"), policy=Policy(), master="local[2]")
    with pytest.raises(ConfigError, match="made of 2 builds"):
        publish(both, str(tmp_path / "public"))
