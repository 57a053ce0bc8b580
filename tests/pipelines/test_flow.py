"""The flow from tables to examples: nothing lost, nothing done twice, the same bytes however and wherever it ran."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import pytest
from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import state, steps
from medloom.schemas.b2nd import decode
from medloom.schemas.errors import ConfigError, RetryLater
from medloom.schemas.shard import ShardName
from medloom.schemas.store import Store

SAME = ("files", "counts")


def test_in_and_made_are_out_and_refused(built: Built):
    ledgers = dict(built.build.ledgers())
    assert len(ledgers) >= 4
    for ledger in ledgers.values():
        counts = ledger["counts"]
        assert counts["in"] + counts["made"] == counts["out"] + counts["refused"]
        assert counts["out"] == sum(len(unit["kept"]) for unit in ledger["units"])
        assert counts["refused"] == len(ledger["refused"])
    assert built.manifest["counts"]["flow"]["in"] == 12 * 2 + 6  # two figures an article, six series and images


def test_every_unit_of_the_plan_ends_in_a_row(built: Built):
    ends = set(built.build.index()["unit"].to_pylist())
    ends |= set(built.build.examples()["unit"].to_pylist()) | {row["unit"] for row in built.build.refusals()}
    planned = {unit["unit"] for units in built.build.shards.values() for unit in units}
    assert len(planned) == 12 + 6
    assert planned <= ends


def test_refusals_are_the_planted_ones(built: Built):
    # Every fourth article shows a figure by permission; of every sixth, the second figure's file is not there.
    assert built.manifest["counts"]["refused"] == {"media.unavailable": 1, "terms.third_party": 3}


def test_a_stored_volume_holds_the_values_of_its_slices_in_order(built: Built):
    rows = [r for r in built.build.index().to_pylist() if r["field"] == "ct.b2nd" and r["shape"] == [6, 32, 40]]
    assert len(rows) == 1
    (shard,) = [s for s, units in built.build.shards.items() if any(u["unit"] == rows[0]["unit"] for u in units)]
    array = decode(built.build.member(rows[0], shard))
    expected = np.stack([sources.ct_slice(1, k).astype(np.int16) - 1024 for k in range(6)])
    assert np.array_equal(array, expected)
    assert rows[0]["spacing_mm"] == [2.5, 1.0, 1.0]


def test_running_again_changes_nothing_and_reads_nothing(built: Built):
    before = sources.facts_of(built.out)
    manifest = sources.build(built.out, built.recipe, built.source)
    assert manifest == built.manifest
    assert sources.facts_of(built.out) == before


def test_two_fresh_builds_in_two_places_are_equal(built: Built, tmp_path: Path):
    source = tmp_path / "elsewhere" / "deep" / "source"
    shutil.copytree(built.source, source, copy_function=shutil.copyfile)  # other times
    for path in source.rglob("*"):
        os.utime(path, (1e9, 1e9))
    recipe = sources.write_recipe(tmp_path / "other_name.py")
    manifest = sources.build(tmp_path / "out", recipe, source)
    assert {name: manifest[name] for name in SAME} == {name: built.manifest[name] for name in SAME}


@pytest.mark.slow
def test_ray_gives_the_same_bytes_as_one_process(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    for name in ("media", "index", "ledger", "examples", "manifests"):
        shutil.rmtree(copied.out / name)
    assert sources.rest(copied.out, ray="local")["files"] == built.manifest["files"]


def test_a_shard_without_its_ledger_is_built_again_alone_with_the_same_bytes(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    shard = ShardName("train", 1)
    before = sources.facts_of(copied.out)
    (copied.out / shard.ledger).unlink()
    manifest = sources.rest(copied.out)
    after = sources.facts_of(copied.out)
    assert manifest["files"] == built.manifest["files"]
    written = {name for name, facts in after.items() if before.get(name) != facts}
    mine = {shard.ledger, *(p(layout) for layout in manifest["counts"]["media"] for p in (shard.tar, shard.index))}
    assert shard.ledger in written
    assert written <= mine


def test_more_articles_and_scans_open_new_shards_and_touch_no_tar(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    before = sources.facts_of(copied.out, among=("media", "index", "ledger", "plan"))
    sources.write_papers(copied.source / "papers", 3, first=50)
    sources.write_ct(copied.source / "scans" / "patient-c", patient="C-3", series=9, n=3)
    manifest = sources.build(copied.out, built.recipe, copied.source)
    after = sources.facts_of(copied.out, among=("media", "index", "ledger", "plan"))
    assert manifest["counts"]["units"] == built.manifest["counts"]["units"] + 4
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    again = sources.build(copied.out, built.recipe, copied.source)
    assert again == manifest


def test_a_changed_figure_or_article_builds_only_its_shard_again(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    before = sources.facts_of(copied.out, among=("media", "index", "ledger"))
    figure = next((copied.source / "papers").rglob("a002-g1.*"))
    figure.write_bytes(sources.picture_bytes(777, figure.suffix[1:]))
    sources.write_paper(copied.source / "papers", 7, word="effusion")
    manifest = sources.build(copied.out, built.recipe, copied.source)
    units = {"pmc9000002-1", "pmc9000007-1"}
    shards = {s for s, rows in built.build.shards.items() if units & {row["unit"] for row in rows}}
    after = sources.facts_of(copied.out, among=("media", "index", "ledger"))
    written = {name for name, facts in after.items() if before.get(name) != facts}
    assert {name for name in written if name.startswith("ledger/")} == {shard.ledger for shard in shards}
    assert all(
        any(name.endswith(f"{s.number:06d}{Path(name).suffix}") and s.split in name for s in shards) for name in written
    )
    captions = " ".join(
        turn["parts"][0]["text"] or "" for e in copied.build.examples("caption").to_pylist() for turn in e["turns"]
    )
    assert "effusion in lobe 7" in captions
    assert "opacity in lobe 7" not in captions
    text = " ".join(row["text"] for row in copied.build.table("paragraph", units=["pmc9000007-1"]).to_pylist())
    assert text.count("effusion") >= 1
    assert "opacity" not in text
    assert manifest["counts"]["units"] == built.manifest["counts"]["units"]
    assert sources.build(copied.out, built.recipe, copied.source) == manifest


def test_a_change_in_the_text_alone_reaches_the_examples_and_changes_no_tar(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    article = copied.source / "papers" / "a002.xml"
    article.write_text(article.read_text().replace("Nothing else was found", "Something else was seen"))
    manifest = sources.build(copied.out, built.recipe, copied.source)
    rows = [row for row in copied.build.examples("interleaved").to_pylist() if row["unit"] == "pmc9000002-1"]
    text = " ".join(part["text"] or "" for row in rows for turn in row["turns"] for part in turn["parts"])
    assert "Something else was seen" in text
    assert "Nothing else was found" not in text
    tars = {name: facts for name, facts in built.manifest["files"].items() if name.startswith("media/")}
    assert {name: manifest["files"][name] for name in tars} == tars


def test_a_figure_file_that_comes_later_is_taken_up(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    (copied.source / "papers" / "late").mkdir()
    ending = "png" if (6 + 2) % 2 else "jpg"
    (copied.source / "papers" / "late" / f"a006-g2.{ending}").write_bytes(sources.picture_bytes(62, ending))
    manifest = sources.build(copied.out, built.recipe, copied.source)
    assert "media.unavailable" not in manifest["counts"]["refused"]
    assert "pmc9000006-1-f2" in copied.build.index()["key"].to_pylist()


def test_a_touched_file_changes_no_byte(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    before = sources.facts_of(copied.out)
    for path in (copied.source / "papers" / "a001.xml", copied.source / "scans" / "patient-a" / "ct" / "slice02.dcm"):
        os.utime(path)
    assert sources.build(copied.out, built.recipe, copied.source) == built.manifest
    assert sources.facts_of(copied.out) == before


def test_what_is_gone_from_the_source_stays_in_the_build(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    (copied.source / "papers" / "a003.xml").unlink()
    shutil.rmtree(copied.source / "scans" / "patient-b")
    assert sources.build(copied.out, built.recipe, copied.source)["files"] == built.manifest["files"]
    sources.write_papers(copied.source / "papers", 1, first=60)  # something new, so that all scans are looked at
    sources.write_ct(copied.source / "scans" / "patient-c", patient="C-3", series=9, n=3)
    manifest = sources.build(copied.out, built.recipe, copied.source)
    assert {n: f for n, f in manifest["files"].items() if n in built.manifest["files"]} == built.manifest["files"]


def test_an_object_that_becomes_unreadable_leaves_its_unit_in_a_row_and_comes_back(built: Built, tmp_path: Path):
    copied = built.copied(tmp_path)
    article, slice_ = copied.source / "papers" / "a001.xml", copied.source / "scans" / "alone" / "alone.nii"
    whole = article.read_bytes(), slice_.read_bytes()
    article.write_bytes(whole[0][:300])
    slice_.write_bytes(b"")
    manifest = sources.build(copied.out, built.recipe, copied.source)
    refused = {row["unit"]: row["reason"] for row in copied.build.table("quarantine").to_pylist()}
    assert refused["pmc9000001-1"] == "jats.malformed"
    assert "source.empty_file" in refused.values()
    assert "pmc9000001-1" not in copied.build.index()["unit"].to_pylist()
    assert steps.gate(sources.step(copied.out)).success
    tars = {shard.tar(layout) for shard, ledger in copied.build.ledgers() for layout in ledger["tars"]}
    assert {name for name in manifest["files"] if name.startswith("media/")} == tars
    assert sources.build(copied.out, built.recipe, copied.source) == manifest
    article.write_bytes(whole[0])
    slice_.write_bytes(whole[1])
    back = sources.build(copied.out, built.recipe, copied.source)
    assert back["counts"] == built.manifest["counts"]
    media = {name: facts for name, facts in built.manifest["files"].items() if name.startswith("media/")}
    assert {name: back["files"][name] for name in media} == media


def test_a_second_writer_is_sent_away_at_once(built: Built):
    with state.locked(Store(str(built.out))):
        with pytest.raises(RetryLater, match="another run is writing") as fault:
            steps.media(sources.step(built.out))
        assert fault.value.exit_status == 75


def test_the_lock_of_a_killed_run_is_free(built: Built, tmp_path: Path):
    out = tmp_path / "out"
    code = (
        "import os, sys; from medloom.pipelines import state; from medloom.schemas.store import Store\n"
        "with state.locked(Store(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(out)], check=False).returncode == -9
    lock = out / "private" / "lock"
    assert lock.exists()
    with state.locked(Store(str(out))), pytest.raises(filelock.Timeout):
        filelock.FileLock(lock, timeout=0).acquire()


def test_a_build_of_another_recipe_or_split_is_refused(built: Built, tmp_path: Path):
    with pytest.raises(ConfigError, match="other splits"):
        steps.tables(sources.step(built.out, built.source, shard_bytes="99"), built.recipe)


LIMITED = """
import resource, signal, sys
from medloom.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
sys.exit(main([sys.argv[2], sys.argv[3], "--ray-address", "none"]))
"""


@pytest.mark.parametrize(
    ("name", "size"),
    [("media", 100), ("media", 2_000), ("media", 9_000), ("media", 20_000), ("examples", 3_000), ("examples", 6_000)],
)
def test_a_full_disk_is_one_clear_error_and_going_on_gives_the_same_bytes(
    built: Built, tmp_path: Path, name: str, size: int
):
    copied = built.copied(tmp_path)
    for folder in ("examples", "manifests") if name == "examples" else ("media", "index", "ledger", "manifests"):
        shutil.rmtree(copied.out / folder)
    command = [sys.executable, "-c", LIMITED, str(size), name, str(copied.out)]
    _must_be_one_line_of_a_full_disk(subprocess.run(command, check=False, capture_output=True, text=True))
    assert sources.rest(copied.out)["files"] == built.manifest["files"]


def test_a_file_system_without_space_is_one_clear_error(built: Built, tmp_path: Path):
    copied, small = built.copied(tmp_path), tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs a small file system mounted")
    try:
        for name in ("plan", "tables", "private"):
            shutil.copytree(copied.out / name, small / "out" / name)
        command = [sys.executable, "-m", "medloom", "media", str(small / "out"), "--ray-address", "none"]
        _must_be_one_line_of_a_full_disk(subprocess.run(command, check=False, capture_output=True, text=True))
        shutil.copytree(small / "out", tmp_path / "large")
        assert sources.rest(tmp_path / "large")["files"] == built.manifest["files"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def _must_be_one_line_of_a_full_disk(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("medloom:")]
    assert len(told) == 1
    assert "the disk is full" in told[0]


@pytest.mark.slow
def test_an_object_store_holds_the_same_bytes(built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    import s3fs

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        import fsspec.config

        fsspec.config.set_conf_env(fsspec.config.conf)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        manifest = sources.build("s3://bucket/out", built.recipe, built.source)
        assert manifest["files"] == built.manifest["files"]
        assert sources.build("s3://bucket/out", built.recipe, built.source) == manifest
    finally:
        fsspec.config.conf.pop("s3", None)
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()
