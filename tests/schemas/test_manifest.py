import hashlib
import json

import pytest

from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json
from medloom.schemas.store import Store

RECIPE = {"name": "x", "parameters": {}, "fingerprints": {}, "tasks": {}}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    store = Store(str(tmp_path / "out") if request.param == "local" else "memory://manifests")
    store.write("plan/part-00000.parquet", b"plan")
    store.write("media/train-png-000000.tar", b"tar")
    store.write("ledger/train-000000.json", b"{}")
    yield store
    store.delete_folder("")


def commit(store: Store, **changes):
    facts = {"recipe": RECIPE, "counts": {"units": 1}, "known": {}} | changes
    return manifests.commit(store, **facts)


def test_manifests_are_numbered_and_name_their_parents(store):
    first = commit(store)
    store.write("tables/article/part-00000.parquet", b"rows")
    second = commit(store)
    assert (first["number"], first["parent"]) == (1, "")
    assert second["number"] == 2
    assert second["parent"] == manifests.digest_of_manifest(first)
    assert store.names("manifests") == ["0001.json", "0002.json"]
    assert json.loads(store.read("manifest.json")) == second == manifests.read_newest(store)


def test_an_unchanged_build_commits_nothing(store):
    first = commit(store)
    assert commit(store) == first
    assert store.names("manifests") == ["0001.json"]


def test_files_are_listed_by_size_and_sha256_and_private_ones_never(store):
    store.write("private/links.parquet", b"names")
    store.write("report/report.html", b"page")
    store.write("examples/README.md", b"card")
    store.write("examples/caption/abc/part-train-000000.parquet", b"rows")
    files = commit(store)["files"]
    assert set(files) == {
        "plan/part-00000.parquet", "media/train-png-000000.tar", "ledger/train-000000.json",
        "examples/caption/abc/part-train-000000.parquet",
    }  # fmt: skip
    assert files["media/train-png-000000.tar"] == {"size": 3, "sha256": hashlib.sha256(b"tar").hexdigest()}


def test_files_of_a_shard_without_a_ledger_are_not_listed(store):
    store.write("media/train-volume-seg-000001.tar", b"half")
    store.write("index/train-volume-seg-000001.parquet", b"half")
    assert not [name for name in commit(store)["files"] if "000001" in name]
    store.write("ledger/train-000001.json", b"{}")
    assert len([name for name in commit(store)["files"] if "000001" in name]) == 3


def test_a_manifest_holds_the_folders_that_have_not_changed(store):
    first = commit(store)
    assert manifests.holds(first, store, ("plan", "media", "ledger"), {})
    store.write("examples/caption/abc/part-train-000000.parquet", b"rows")
    assert manifests.holds(first, store, ("plan", "media"), {})
    assert not manifests.holds(first, store, ("examples",), {})


def test_digests_that_are_known_are_not_computed_again(store):
    files = commit(store, known={"media/train-png-000000.tar": "0" * 64})["files"]
    assert files["media/train-png-000000.tar"]["sha256"] == "0" * 64


def test_a_copy_that_a_killed_run_left_behind_is_made_new(store):
    commit(store)
    store.write("plan/part-00001.parquet", b"more")
    newest = commit(store)
    store.write("manifest.json", store.read("manifests/0001.json"))  # killed between the two writes
    assert commit(store) == newest
    assert json.loads(store.read("manifest.json")) == newest


def test_two_writers_do_not_take_the_same_number(store, monkeypatch):
    commit(store)
    monkeypatch.setattr(manifests, "read_newest", lambda _: None)  # what a second writer saw before
    with pytest.raises(FormatError, match="only one may write at a time"):
        commit(store, counts={"units": 2})


def test_a_newer_format_is_refused_and_says_to_update(store):
    newest = commit(store)
    store.write("manifests/0002.json", canonical_json({**newest, "number": 2, "format_version": 99}).encode())
    with pytest.raises(FormatError, match=r"format_version 99 is newer than 1.*update MedLoom"):
        Build(store.url).manifest()


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"{}", b'{"format_version": "x"}', b"\xff\xfe", b"null"])
def test_what_is_no_manifest_is_refused(store, data):
    store.write("manifests/0001.json", data)
    with pytest.raises(FormatError, match="is not a JSON file of MedLoom"):
        manifests.read_newest(store)


def test_a_build_without_a_manifest_never_finished_a_step(store):
    with pytest.raises(FormatError, match="never finished a step"):
        Build(store.url).manifest()


def test_what_a_file_lacks_is_told_as_damage_to_it(store):
    commit(store)
    text = store.read("manifests/0001.json").replace(b'"sha256"', b'"sha257"', 1)
    facts = manifests.parse(text, where="manifests/0001.json")
    lacking = next(entry for entry in facts["files"].values() if "sha257" in entry)
    for asked, name in ((facts, "parents"), (lacking, "sha256")):
        with pytest.raises(FormatError, match=f"^manifests/0001.json has no '{name}' where it must"):
            asked[name]
    assert facts.get("parents") is None
