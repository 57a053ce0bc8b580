"""Repair against damage done on purpose: what can be proven comes back byte for byte, the rest is left and told."""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from tests.quality.damage import (
    ARROW,
    BATCHES,
    INDEX_PATH,
    MANIFEST,
    TAR,
    TRAIN,
    files,
    first_part,
    flip,
    garbage,
    release_of,
    row_of,
    token_part,
)

from medloom.quality import repair_tar
from medloom.quality.lint import lint
from medloom.quality.repair import _put_back, repair
from medloom.schemas import manifest as manifests
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.release import append_overlay
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION, STATE


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 512 * 7)


def without_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1024])


def wrong_counts(path: Path) -> None:
    store, table = Store(str(path.parent)), Store(str(path.parent)).read_table(path.name)
    tokens = pa.array([n + 1 for n in table["tokens"].to_pylist()], pa.int32())
    metadata = store.table_metadata(path.name)
    store.write_table(path.name, table.set_column(1, "tokens", tokens), metadata)


# Each kind of damage: the file, what is done to it, and what lint must find. Repaired, every byte is as before.
MENDED = {
    "an index is gone": (lambda b: INDEX_PATH, Path.unlink, "file.missing"),
    "an index is noise": (lambda b: INDEX_PATH, garbage, "index.form"),
    "an index is empty": (lambda b: INDEX_PATH, lambda p: p.write_bytes(b""), "index.form"),
    "an index has a flipped bit": (lambda b: INDEX_PATH, lambda p: flip(p, 2000), "index.sha256"),
    "a header of a tar is noise": (lambda b: TAR, lambda p: flip(p, 100), "tar.form"),
    "a name in a tar is another": (lambda b: TAR, lambda p: flip(p, 3), "tar.form"),
    "the padding of a tar is no zeros": (lambda b: TAR, lambda p: flip(p, p.stat().st_size - 1100, 64), "tar.sha256"),
    "a tar has no end": (lambda b: TAR, without_end, "file.size"),
    "a tar has more than its end": (lambda b: TAR, lengthened, "file.size"),
    "manifest.json is gone": (lambda b: "manifest.json", Path.unlink, "manifest.copy"),
    "manifest.json is cut off": (lambda b: "manifest.json", lambda p: p.write_bytes(b"{}"), "manifest.copy"),
    "manifest.json has a flipped bit": (lambda b: "manifest.json", lambda p: flip(p, 400), "manifest.copy"),
    "the newest manifest is noise": (lambda b: MANIFEST, garbage, "manifest.form"),
    "a release's index is gone": (lambda b: ARROW, Path.unlink, "release.index"),
    "a release's index has a flipped bit": (lambda b: ARROW, lambda p: flip(p, 5000), "release.index"),
    "a release's index is cut off": (lambda b: ARROW, lambda p: p.write_bytes(p.read_bytes()[:1000]), "release.index"),
    "the list of its batches is gone": (lambda b: BATCHES, Path.unlink, "release.index"),
    "the list of its batches is noise": (lambda b: BATCHES, garbage, "release.index"),
    "counts of tokens are noise": (token_part, garbage, "tokens.form"),
    "counts of tokens are wrong": (token_part, wrong_counts, "tokens.tokens"),
    "counts of tokens are gone": (token_part, Path.unlink, "tokens.missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MENDED)
def test_what_can_be_proven_comes_back_byte_for_byte(whole, kind):
    path_of, damage, what = MENDED[kind]
    before, path = files(whole), path_of(whole)
    damage(Path(whole.url) / path)
    assert files(whole) != before
    assert what in {finding.what for finding in lint(Build(whole.url), release=release_of(whole))}
    done = repair(Build(whole.url), release=release_of(whole))
    assert [step.path.removeprefix(whole.url + "/") for step in done.steps if step.is_mended] == [path]
    assert done.left == ()
    assert files(whole) == before


def test_a_whole_build_is_left_as_it_is(whole):
    before = files(whole)
    done = repair(whole, release=release_of(whole))
    assert (done.steps, done.left) == ((), ())
    assert files(whole) == before


@pytest.mark.parametrize("field", ["json", "ct.b2nd", "seg.b2nd", "thumb.jpg"])
def test_one_flipped_bit_of_a_member_is_turned_back(whole, field):
    before, row = files(whole), row_of(whole, field)
    flip(Path(whole.url) / TAR, row["offset"] + row["size"] // 3, 16)
    assert "member.crc32c" in {finding.what for finding in lint(whole)}
    done = repair(whole)
    (step,) = done.steps
    assert step.is_mended
    assert f"a bit of {row['key']}.{field} was flipped" in step.told
    assert files(whole) == before


def test_many_things_at_once_are_mended(whole):
    before, row = files(whole), row_of(whole, "ct.b2nd")
    root = Path(whole.url)
    flip(root / TAR, row["offset"] + 5)
    (root / TRAIN.index("jpg")).unlink()
    garbage(root / ARROW)
    (root / "manifest.json").unlink()
    (root / "media/.partial-0123-train-jpg-000000.tar").write_bytes(b"half")
    (root / "releases/0001/.partial-0123-rows.parquet").write_bytes(b"half")
    wrong_counts(root / token_part(whole))
    assert {"file.partial", "file.missing"} <= {f.what for f in lint(whole, release=release_of(whole))}
    done = repair(Build(whole.url), release=release_of(whole))
    assert all(step.is_mended for step in done.steps)
    assert len(done.steps) == 7
    assert done.left == ()
    assert files(whole) == before


def lost_member(build: Build) -> str:
    row = row_of(build, "ct.b2nd")
    with (Path(build.url) / TAR).open("r+b") as file:
        file.seek(row["offset"] + 10)
        file.write(b"lost bytes")
    return TAR


def lost_tar(build: Build) -> str:
    (Path(build.url) / TAR).unlink()
    return TAR


def cut_tar(build: Build) -> str:
    path = Path(build.url) / TAR
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return TAR


def lost_both(build: Build) -> str:
    path = lost_member(build)
    garbage(Path(build.url) / INDEX_PATH)
    return path


def another_ledger(build: Build) -> str:
    ledger = build.ledger(TRAIN)
    ledger["tars"]["jpg"]["index_sha256"] = "0" * 64
    build.store.write(TRAIN.ledger, canonical_json(ledger).encode())
    return TRAIN.index("jpg")


def ledger_is_noise(build: Build) -> str:
    garbage(Path(build.url) / TRAIN.ledger)
    return TRAIN.ledger


def plan_is_noise(build: Build) -> str:
    garbage(Path(build.url) / "plan/part-00000.parquet")
    return "plan/part-00000.parquet"


def examples_are_noise(build: Build) -> str:
    garbage(Path(build.url) / first_part(build))
    return first_part(build)


def table_is_gone(build: Build) -> str:
    (Path(build.url) / "tables/group/part-00000.parquet").unlink()
    return "tables/group/part-00000.parquet"


def rows_are_others(build: Build) -> str:
    flip(Path(build.url) / "releases/0001/rows.parquet", 50)
    return "releases/0001/rows.parquet"


def release_is_noise(build: Build) -> str:
    garbage(Path(build.url) / "releases/0001/release.json")
    return "releases/0001/release.json"


def overlay_is_noise(build: Build) -> str:
    garbage(Path(build.url) / "releases/overlay/0001.parquet")
    return "releases/overlay/0001.parquet"


def other_tokenizer(build: Build) -> str:
    path = token_part(build).replace("/bytes/", "/org-name/")
    for part in build.store.folders("tokens/bytes"):
        shutil.copytree(Path(build.url) / f"tokens/bytes/{part}", Path(build.url) / f"tokens/org-name/{part}")
    garbage(Path(build.url) / path)
    return path


def stray_tar(build: Build) -> str:
    build.store.write("media/train-jpg-000009.tar", b"of a killed run")
    return "media/train-jpg-000009.tar"


REFUSED = [
    (lost_member, "member.crc32c"), (lost_tar, "file.missing"), (cut_tar, "tar.form"), (lost_both, "tar.sha256"),
    (another_ledger, "index.sha256"), (ledger_is_noise, "ledger.form"), (plan_is_noise, "plan.form"),
    (examples_are_noise, "example.form"), (table_is_gone, "file.missing"), (rows_are_others, "release.rows"),
    (release_is_noise, "release.form"), (overlay_is_noise, "release.states"), (other_tokenizer, "tokens.form"),
    (stray_tar, "file.stray"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "what"), REFUSED, ids=[damage.__name__ for damage, _ in REFUSED])
def test_what_cannot_be_proven_is_left_and_told(whole, damage, what):
    path = damage(whole)
    before = files(whole)
    done = repair(Build(whole.url), release=release_of(whole))
    assert files(whole) == before
    assert not [step for step in done.steps if step.is_mended]
    assert what in {f.what for f in done.left if f.path.removeprefix(whole.url + "/") == path}
    assert all(f.mend for f in done.left)


def test_a_tar_of_another_writer_is_not_put_in_the_place_of_the_committed_one(whole, monkeypatch):
    path = Path(whole.url) / TAR
    flip(path, 100)
    before = path.read_bytes()

    def other(name: str, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        return info.tobuf(format=tarfile.USTAR_FORMAT)

    monkeypatch.setattr(repair_tar, "tar_header", other)
    (step,) = repair(whole).steps
    assert "put together they are not the tar" in step.told
    assert path.read_bytes() == before


def test_a_tar_that_reads_differently_the_second_time_is_left_as_it_is(whole, monkeypatch):
    path, give, passes = Path(whole.url) / TAR, repair_tar._whole, []
    flip(path, 20)
    before = files(whole)

    def failing(*args):  # as a disk that goes bad between two reads
        passes.append(args)
        for number, piece in enumerate(give(*args)):
            yield bytes(len(piece)) if len(passes) == 2 and number == 1 else piece

    monkeypatch.setattr(repair_tar, "_whole", failing)
    (step,) = repair(whole).steps
    assert not step.is_mended
    assert "read twice it gives different bytes" in step.told
    assert files(whole) == before


def test_a_release_index_is_not_put_back_as_other_bytes_than_are_pinned(tmp_path):
    fresh, store = Store(str(tmp_path / "fresh")), Store(str(tmp_path / "store"))
    fresh.write("a", b"bad")
    store.write("a", b"old")
    with pytest.raises(repair_tar.CannotRepair, match="other bytes"):
        _put_back(store, "a", fresh, sha256_hex(b"good"))
    assert store.read("a") == b"old"
    _put_back(store, "a", fresh, sha256_hex(b"bad"))
    assert store.read("a") == b"bad"


def test_two_flipped_bits_are_not_taken_for_one(whole):
    row = row_of(whole, "ct.b2nd")
    path = Path(whole.url) / TAR
    flip(path, row["offset"] + 40, 2)
    flip(path, row["offset"] + 90, 8)
    before = path.read_bytes()
    (step,) = repair(whole).steps
    assert not step.is_mended
    assert path.read_bytes() == before


def test_examples_that_were_changed_are_not_counted(whole):
    part = first_part(whole)
    rows = whole.store.read_table(part)
    whole.store.write_table(part, rows.slice(1))
    before = files(whole)
    done = repair(whole)
    assert [(step.path, step.is_mended) for step in done.steps] == [(token_part(whole), False)]
    assert "tokens.rows" in {f.what for f in done.left}
    assert files(whole) == before


def test_why_is_said(whole):
    row = row_of(whole, "ct.b2nd")
    lost_member(whole)
    (step,) = repair(whole).steps
    assert f"1 of its members have lost bytes: {row['key']}.ct.b2nd" in step.told
    assert "`medloom media`" in step.told


def test_a_lost_manifest_comes_back_from_its_copy_and_not_from_a_changed_one(whole):
    release = release_of(whole)
    path = Path(whole.url) / MANIFEST
    committed = path.read_bytes()
    newest = json.loads(committed)
    second = manifests.commit(
        whole.store, recipe={**newest["recipe"], "name": "again"}, counts=newest["counts"], known={}
    )
    assert second["number"] == 2
    two = Path(whole.url) / "manifests/0002.json"
    written = two.read_bytes()
    two.unlink()
    assert "manifest.copy" in {f.what for f in lint(Build(whole.url))}
    assert [step.is_mended for step in repair(Build(whole.url), release=release).steps] == [True]
    assert two.read_bytes() == written
    two.unlink()
    changed = json.loads(written)
    changed["files"][TRAIN.ledger]["sha256"] = "0" * 64
    (Path(whole.url) / "manifest.json").write_bytes((canonical_json(changed) + "\n").encode())
    (step,) = repair(Build(whole.url), release=release).steps
    assert not step.is_mended
    assert "may not be what it was" in step.told
    assert not two.exists()


def test_counts_of_examples_that_are_gone_are_deleted(whole):
    path = "tokens/bytes/caption/000000000000/part-train-000000.parquet"
    whole.store.write(path, whole.store.read(token_part(whole)))
    assert [(f.path, f.what) for f in lint(whole)] == [(path, "tokens.stray")]
    done = repair(whole)
    assert (len(done.steps), done.left) == (1, ())
    assert not whole.store.exists(path)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    Store(str(tmp_path)).write("plan/x", b"")
    with pytest.raises(FormatError, match="no manifest"):
        repair(Build(str(tmp_path)))


def test_a_manifest_of_a_newer_format_is_left_alone(whole):
    newest = {**whole.manifest(), "format_version": FORMAT_VERSION + 1}
    for name in (MANIFEST, "manifest.json"):
        whole.store.write(name, (canonical_json(newest) + "\n").encode())
    before = files(whole)
    done = repair(Build(whole.url))
    assert "update MedLoom" in done.left[0].found
    assert files(whole) == before


def test_states_that_there_are_not_are_found(whole):
    release = release_of(whole)
    rows = [{"scope": "planet", "id": "x", "state": "live", "reason": "", "by": ""}]
    release.store.write_table("overlay/0002.parquet", pa.Table.from_pylist(rows, schema=STATE))
    (finding,) = lint(whole, release=release)
    assert finding.what == "release.states"


def test_an_overlay_whose_rows_are_not_those_appended_is_found(whole):
    store = release_of(whole).store
    path = append_overlay(store, [{"scope": "group", "id": "x", "state": "withdrawn", "reason": "", "by": ""}])
    table, metadata = store.read_table(path), store.table_metadata(path)
    other = pa.Table.from_pylist([table.to_pylist()[0] | {"id": "y"}], schema=STATE)
    store.write_table(path, other, metadata)
    (finding,) = lint(whole, release=release_of(whole))
    assert (finding.what, finding.path) == ("release.states", f"{store.url}/{path}")
    assert "was changed after it was written" in finding.found


def test_a_tar_that_only_gnu_tar_could_tell_apart_is_the_same_after_repair(whole):
    """A header written by another tool says the same and is other bytes: the committed ones come back."""
    path = Path(whole.url) / TAR
    committed = path.read_bytes()
    info = tarfile.TarInfo(committed[:100].rstrip(b"\0").decode())
    info.size, info.mode, info.mtime = int(committed[124:136].rstrip(b"\0 "), 8), 0o600, 1_700_000_000
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + committed[512:])
    assert {f.what for f in lint(whole)} == {"tar.sha256"}
    assert repair(whole).left == ()
    assert path.read_bytes() == committed
