"""The commands tokens, transcode and lint --repair: what they print, as JSON too, and how they end."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import typer
from tests.builds import synthetic_release
from tests.pipelines.scan_builds import scan_release, small_media
from typer.testing import CliRunner

from medloom.__main__ import main
from medloom.pipelines.cli_shards import register
from medloom.pipelines.shard_extras import write_extras
from medloom.quality.lint import lint
from medloom.quality.repair import repair
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.keys import canonical_json, sha256_hex
from medloom.schemas.release import Release
from medloom.schemas.release_indexing import write_release_index
from medloom.schemas.store import Store
from medloom.schemas.tables import RELEASE_ROW, STATE


@pytest.fixture
def run():
    app = typer.Typer()
    register(app)

    def called(*arguments: str):
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False, standalone_mode=False)

    return called


@pytest.fixture
def url(tmp_path) -> str:
    return synthetic_release(tmp_path, 12)


def test_tokens_tells_what_was_counted(run, url):
    assert "tokens/bytes: " in (first := run("tokens", url).stdout)
    assert "0 up to date" in first
    told = json.loads(run("tokens", url, "--json").stdout)
    assert (told["parts"], told["folder"], told["tokens"] > told["longest"] > 0) == (0, "tokens/bytes", True)
    assert lint(Build(url)) == []


def test_transcode_tells_what_was_written_and_needs_a_form(run, url, tmp_path):
    told = json.loads(run("transcode", url, "--to", "nii.gz", str(tmp_path / "out"), "--json").stdout)
    assert told["written"] == len(list((tmp_path / "out/volumes").iterdir()))
    again = run("transcode", url, "--to", "nii.gz", str(tmp_path / "out")).stdout
    assert f"0 files written, {told['written']} stood already" in again
    with pytest.raises(ConfigError, match=r"--to nii\.gz or --to npy\.zst"):
        run("transcode", url, str(tmp_path / "other"))


def test_lint_repairs_and_its_exit_status_says_whether_all_is_right(url, capsys):
    arrow = next(Path(url).glob("releases/0001/index/*.arrow"))
    arrow.write_bytes(b"")
    assert main(["lint", url]) == 1
    capsys.readouterr()
    assert main(["lint", url, "--repair"]) == 0
    assert "written again, the same bytes as release.json pins" in capsys.readouterr().out
    tar = next(Path(url).glob("media/*.tar"))
    tar.unlink()
    assert main(["lint", url, "--repair", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(step["is_mended"], "bytes stand nowhere else" in step["told"]) for step in told["repaired"]] == [
        (False, True)
    ]
    assert f"media/{tar.name}" in {finding["path"] for finding in told["found"]}


def test_indexes_of_what_the_real_stages_store_come_back(tmp_path):
    release = scan_release(tmp_path, small_media())
    build = release.builds()[0]
    before = {path: path.read_bytes() for path in Path(build.url).rglob("*.parquet")}
    lost = sorted(Path(build.url).glob("index/*.parquet"))
    assert len(lost) == 3  # volumes, volumes with masks, a picture
    for path in lost:
        path.unlink()
    assert [step.is_mended for step in repair(Build(build.url), release=release).steps] == [True] * 3
    assert {path: path.read_bytes() for path in Path(build.url).rglob("*.parquet")} == before


def test_extras_that_differ_are_found_and_written_again(url, capsys):
    releases = f"{url}/releases"
    for place in (url, releases):
        write_extras(place, wids=True, energon=True)
    assert main(["lint", url]) == 0
    before = {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}
    lost = [
        *sorted(Path(url).glob("wids/*.json"))[:1],
        *sorted(Path(url).glob("energon/*/.nv-meta/.info.json"))[:1],
        *sorted(Path(url).glob("energon/*/*.tar.idx"))[:1],
        *sorted(Path(releases).glob("0001/energon/*/*.idx"))[:1],
    ]
    assert len(lost) == 4
    for path in lost[:3]:
        path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    lost[3].unlink()
    link = sorted(Path(url).glob("energon/png/*.tar"))[0]
    link.unlink()
    capsys.readouterr()
    assert main(["lint", url, "--json"]) == 1
    found = {(f["path"].removeprefix(f"{url}/"), f["what"]) for f in json.loads(capsys.readouterr().out)}
    assert found == {(str(path.relative_to(url)), "extra.bytes") for path in [*lost, link]}
    assert main(["lint", url, "--repair"]) == 0
    assert {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()} == before | {
        path: b"" for path in Path(url).glob("private/lock")
    }


def test_extras_of_a_build_whose_index_is_gone_wait_for_the_index(url, capsys):
    write_extras(url, wids=False, energon=True)
    index = next(Path(url).glob("index/train-jpg-*.parquet"))
    index.unlink()
    assert main(["lint", url, "--json"]) == 1
    found = {(f["path"].removeprefix(f"{url}/"), f["what"]) for f in json.loads(capsys.readouterr().out)}
    assert ("wids", "extra.unknown") in found


def test_a_release_of_two_builds_is_looked_at_and_mended_through_both(tmp_path, capsys):
    urls = [synthetic_release(tmp_path / name, 12) for name in ("one", "two")]
    release, other = (Release(url) for url in urls)
    rows = [{**row, "build": n} for n, r in enumerate((release, other)) for row in r.rows.to_pylist()]
    pinned = [{**r.facts["builds"][0], "uri": f"../{name}/build"} for r, name in ((release, "one"), (other, "two"))]
    store = Store(str(tmp_path / "both"))
    table, index = write_release_index(store, "0001", pa.Table.from_pylist(rows, schema=RELEASE_ROW), pinned)
    store.write_table("0001/rows.parquet", table)
    store.write_table("0001/states.parquet", STATE.empty_table())
    facts = {**release.facts, "builds": pinned, "index": index, "counts": {"rows": len(rows)},
             "rows_sha256": sha256_hex(store.read("0001/rows.parquet"))}  # fmt: skip
    store.write("0001/release.json", (canonical_json(facts) + "\n").encode())
    assert main(["lint", store.url]) == 0
    arrow = next(store.local("0001/index").glob("*.arrow"))
    tar = sorted(Path(urls[1]).glob("media/train-jpg-*.tar"))[0]
    for path in (arrow, tar):
        path.write_bytes(path.read_bytes() + b"more")
    capsys.readouterr()
    assert main(["lint", store.url, "--json"]) == 1
    found = {(f["path"], f["what"]) for f in json.loads(capsys.readouterr().out)}
    assert found == {(str(arrow), "release.index"), (str(tar), "file.size"), (str(tar), "tar.sha256")}
    assert main(["lint", store.url, "--repair"]) == 0
    assert main(["lint", str(tmp_path)]) == 2
