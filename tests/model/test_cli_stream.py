import json

import pytest
import typer
from tests.foreign import samples, write_tar
from typer.testing import CliRunner

from medloom.__main__ import main
from medloom.model import cli_stream
from medloom.model.stream import ShardStream
from medloom.schemas.errors import FormatError
from medloom.schemas.tar_set import TarSet


@pytest.fixture
def run():
    """Run the command line with these arguments and return what it said."""
    app = typer.Typer()
    app.callback()(lambda: None)
    cli_stream.register(app)

    def ran(*arguments: str):
        done = CliRunner().invoke(app, [str(one) for one in arguments])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return ran


def test_index_says_what_it_found_and_what_it_left_out(run, tmp_path):
    first = write_tar(tmp_path / "set" / "a.tar", [*samples(0, 3), ("README", b"words")])
    second = write_tar(tmp_path / "set" / "b.tar", samples(2, 2))
    done = run("index", first, second, "--to", tmp_path / "index")
    assert done.exit_code == 0
    assert done.stdout == (
        f"5 samples of 15 members in 2 tars: {tmp_path / 'index'}\n"
        "2 samples have a key that comes again; they are named with their tar\n"
        "left out: 1 unnamed\n"
    )
    assert f"{first}: 3 samples, 9 members" in done.stderr
    said = json.loads(run("index", tmp_path / "set", "--to", tmp_path / "index", "--json").stdout)
    assert (said["samples"], said["tars"], said["renamed"], said["left_out"]) == (5, 2, 2, {"unnamed": 1})
    assert said["digest"] == TarSet(str(tmp_path / "index")).digest


def test_an_index_with_checksums_streams(run, tmp_path):
    write_tar(tmp_path / "set" / "a.tar", samples(0, 4))
    run("index", tmp_path / "set", "--checksums", "--to", tmp_path / "index")
    assert TarSet(str(tmp_path / "index")).members["crc32c"].null_count == 0
    (batch,) = list(ShardStream(str(tmp_path / "index"), seed=1, global_batch=4))
    assert sorted(batch.keys) == ["s0000", "s0001", "s0002", "s0003"]


def test_index_of_a_damaged_tar_names_the_byte_and_leaves_no_index(run, tmp_path):
    tar = write_tar(tmp_path / "a.tar", samples(0, 3))
    with open(tar, "r+b") as file:
        file.truncate(3000)
    with pytest.raises(FormatError, match=r"a\.tar at byte \d+"):
        run("index", tar, "--to", tmp_path / "index")
    assert not (tmp_path / "index" / "index.json").exists()


def test_a_store_without_credentials_is_told_as_such(monkeypatch, capsys):
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials")
    assert main(["stream", "s3://bucket/train-000000.tar"]) == 2
    assert "Unable to locate credentials; check its address" in capsys.readouterr().err
