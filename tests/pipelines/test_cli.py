"""The command line as its users meet it: options, output, errors, exit statuses."""

import io
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from tests import sources
from tests.builds import synthetic_release
from tests.pipelines.conftest import Built
from tests.pipelines.small_builds import Paper, small_build

from medloom.__main__ import app, main
from medloom.pipelines import state
from medloom.schemas.release import Release
from medloom.schemas.store import Store

FROZEN = Path(__file__).with_name("cli_options.json")
HEAVY = ("torch", "ray", "pyspark", "transformers", "great_expectations", "pandas", "numpy", "pyarrow")
COMMANDS = (
    "recipes", "estimate", "fetch", "deidentify", "build", "tables", "media", "examples", "gate", "release", "publish",
    "inspect", "lint", "show", "report", "export", "import", "tokens", "transcode", "extras", "index", "stream",
    "capacity", "train", "evaluate",
)  # fmt: skip


def options() -> dict[str, Any]:
    """Every command's parameters: how they are written, whether they are needed, what they are by default.

    When a change is meant: python -c "import json; from tests.pipelines.test_cli import *;
    FROZEN.write_text(json.dumps(options(), indent=1) + chr(10))"
    """
    command: Any = typer.main.get_command(app)
    found = {"": command.params} | {name: sub.params for name, sub in command.commands.items()}
    return {
        name: {
            " ".join([*p.opts, *p.secondary_opts]): {
                "required": p.required, "default": p.default,
                "repeatable": bool(getattr(p, "multiple", False) or p.nargs == -1),
            }
            for p in params
        }
        for name, params in found.items()
    }  # fmt: skip


def command(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"COLUMNS": "100", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment} | settings
    return subprocess.Popen([sys.executable, "-m", "medloom", *arguments], **pipes)


def run(*arguments: str, **settings: Any) -> tuple[int, str, str]:
    process = command(*arguments, **settings)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


@pytest.fixture
def cli(capsys):
    """Run a command in this process: (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def release(tmp_path) -> str:
    return synthetic_release(tmp_path, n_units=12)


def test_commands_and_options_are_those_that_were_frozen():
    assert options() == json.loads(FROZEN.read_text())


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_says_what_a_command_does(cli, name):
    status, out, err = cli(*filter(None, (name, "--help")))
    assert (status, err) == (0, "")
    assert "Usage: medloom" in out
    for written in options()[name]:
        assert all(option in out for option in written.split() if option.startswith("-"))
    if name not in ("", "train", "evaluate"):
        assert f"medloom {name}" in out.partition("Examples:")[2]


def test_root_help_lists_every_command_in_the_order_of_use(cli):
    out = cli("--help")[1]
    assert re.findall(r"│ ([a-z]+) {2,}", out.partition("Commands")[2]) == list(COMMANDS)


def test_help_is_quick_and_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "medloom", "--help"], capture_output=True, text=True, check=True
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("buld",), "Did you mean 'build'"),
        (("build",), "Missing argument"),
        (("build", "demo"), "Missing option '--to'"),
        (("media", "OUT", "--nope"), "No such option"),
        (("--verbose",), "name a command"),
        (
            ("build", "nope", "--to", "OUT"),
            "there is no recipe 'nope'; known are demo, labelled_images, m3d_seg, pmc_captions, pmc_case_report, "
            "pmc_inline, scans",
        ),
        (("build", "FILE.py", "--to", "OUT"), "no such file"),
        (("build", "scans", "--to", "OUT", "--set", "sourc=x"), "has no parameter 'sourc'; it knows source"),
        (("build", "scans", "--to", "OUT", "--set", "source"), "is not NAME=VALUE"),
        (("build", "scans", "--to", "OUT"), "needs --set source="),
        (("build", "scans", "--to", "OUT", "--set", "source=x", "--set", "spacing_mm=wide"), "spacing_mm=wide is not"),
        (("build", "pmc_inline", "--to", "OUT", "--set", "source=[/x]MISSING"), "[/x]MISSING"),
        (("build", "pmc_inline", "--to", "FILE", "--set", "source=."), "choose another folder"),
        (("media", "OUT"), "is not a build"),
        (("media", "FILE"), "FILE"),
        (("examples", "OUT"), "is not a build"),
        (("gate", "OUT"), "is not a build"),
        (("gate", "FILE"), "is not a build"),
        (("release", "OUT"), "is not a build"),
        (("release",), "name the builds"),
        (("release", "--to", "OUT", "--withhold", "medium:x", "--reason", "y"), "holds no release"),
        (("publish", "OUT", "--to", "NEW"), "holds no release"),
        (("publish", "FILE", "--to", "NEW"), "holds no release"),
        (("inspect", "OUT"), "no such file or folder"),
        (("lint", "OUT"), "is not a build"),
        (("lint", "FILE"), "is not a build"),
        (("show", "OUT", "x"), "is not a build"),
        (("report", "OUT"), "is not a build"),
        (("train", "OUT", "--to", "NEW"), "holds no release"),
        (("evaluate", "OUT"), "OUT"),
    ],
)
def test_a_mistake_is_exit_2_with_one_sentence_and_no_traceback(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("a file")
    status, out, err = cli(*arguments)
    assert status == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(("medloom: ", "Error: "))
    assert not Path("OUT/plan").exists()


def test_a_usage_error_shows_how_to_get_help(cli):
    assert "Try 'medloom build" in cli("build")[2]


def test_no_arguments_show_the_help(cli):
    status, out, err = cli()
    assert status == 2
    assert "Commands" in out + err


def test_debug_shows_the_traceback(cli, tmp_path):
    assert "Traceback" in cli("--debug", "lint", tmp_path / "none")[2]


def test_a_bug_is_one_line_that_quotes_no_data(cli, release):
    path = Path(release, "tables/group/part-00000.parquet")
    path.write_bytes(b"PATIENT NAME")
    status, out, err = cli("show", release, "u00000")
    assert (status, out) == (70, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("medloom: this is a bug of MedLoom: Arrow")
    assert "PATIENT" not in err


def test_the_version_is_printed(cli):
    assert re.fullmatch(r"medloom \d+\.\d+\.\d+\n", cli("--version")[1])


def test_recipes_list_their_parameters(cli):
    out = cli("recipes")[1]
    assert re.search(r"^ {4}deidentify +on \| off, default on$", out, re.M)
    assert re.search(r"^ {4}source +str, needed$", out, re.M)
    assert set(json.loads(cli("recipes", "--json")[1])) >= {"demo", "pmc_inline", "scans"}


def test_json_is_all_that_stands_on_standard_output(cli, release, tmp_path):
    key = Release(release).rows["media"][0].as_py()[0]
    for arguments in (
        ("recipes",),
        ("lint", release),
        ("show", release, key),
        ("report", release),
        ("inspect", FROZEN),
        ("publish", release, "--to", tmp_path / "public"),
        ("release", "--to", f"{release}/releases", "--withhold", f"medium:{key}", "--reason", "blurred"),
    ):
        status, out, err = cli(*arguments, "--json")
        assert (status, err) == (0, ""), arguments
        json.loads(out)


def test_the_report_draws_the_loss_of_a_run(cli, release, tmp_path):
    rows = [{"step": 0, "held_out_loss": 6.0}, {"step": 1, "loss": 5.5}, {"step": 2, "loss": 4.25}]
    rows.append({"step": 2, "held_out_loss": 4.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, out, _ = cli("report", release, "--run", tmp_path)
    assert status == 0
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert said["trained"] == "2 steps, held-out loss 6.000 before and 4.500 after"
    page = Path(said["open"].removeprefix("next").strip())
    assert "4.25" in page.read_text()
    assert all((page.parent / card).stat().st_size for card in ("README.md", "examples/README.md", "croissant.json"))
    status, _, err = cli("report", release, "--run", release)
    assert (status, "is no training run" in err) == (2, True)


def test_lint_is_exit_1_when_a_byte_is_wrong(cli, release):
    assert cli("lint", release)[0] == 0
    tar = next(Path(release, "media").iterdir())
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    status, out, err = cli("lint", release)
    assert status == 1
    assert f"media/{tar.name}: tar.sha256" in out
    assert re.fullmatch(r"medloom: \S+ is not what its manifest promises: \d+ findings\n", err)


def test_a_release_of_nothing_live_is_exit_1(cli, tmp_path):
    made = small_build(tmp_path / "out", Paper("a", pixels=(1,), terms_id="unknown"))
    status, out, err = cli("release", made.url, "--spark-master", "local[2]")
    assert status == 1
    assert "release 1 at" in out
    assert "withheld by policy: 2 terms.unknown" in out
    assert "keeps none of its 1 examples" in err


def test_overlays_are_told_and_mistakes_in_them_refused(cli, release):
    releases = f"{release}/releases"
    key = Release(release).rows["media"][0].as_py()[0]
    said = ("release", "--to", releases)
    status, out, _ = cli(*said, "--withhold", f"medium:{key}", "--reason", "blurred", "--by", "curator:x")
    assert (status, out) == (0, f"{releases}: wrote overlay/0001.parquet\n")
    assert cli(*said, "--lift", f"medium:{key}", "--reason", "sharp after all")[0] == 0
    assert cli(*said, "--withhold", f"medium:{key}")[2] == (
        "medloom: to say that something is withheld needs --reason TEXT, which the overlay keeps\n"
    )


def test_publishing_tells_what_went_out_and_what_stayed(cli, release, tmp_path):
    status, out, _ = cli("publish", release, "--to", tmp_path / "public")
    assert status == 0
    assert re.search(r"published \S+: \d+ media, \d+ examples; \d+ tars copied, 0 rewritten", out)
    assert cli("publish", release, "--to", tmp_path / "public")[0] == 2
    assert cli("lint", tmp_path / "public")[0] == 0


def test_a_table_in_a_pipe_has_a_line_per_row_however_long(tmp_path):
    long = tmp_path / ("folder" * 20)
    long.mkdir()
    Image.new("L", (40, 30)).save(long / "figure.png")
    (long / "empty.dcm").touch()
    status, out, _ = run("inspect", str(tmp_path))
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:2] == ["files", "kind"]
    assert f"{long.name}/figure.png" in lines[2]
    assert "30×40×1" in lines[2]
    assert lines[3] == f"{tmp_path}: 1 would be built, 1 refused"


def test_a_reader_who_leaves_early_is_no_error(release):
    process = command("show", release, "u00000-f0")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


def test_a_held_lock_is_worth_retrying(cli, built: Built, tmp_path):
    mine = built.copied(tmp_path)
    with state.locked(Store(str(mine.out))):
        status, out, err = cli("media", mine.out, "--ray-address", "none")
    assert (status, out) == (75, "")
    assert re.fullmatch(r"medloom: another run is writing .* run the same command again\n", err)


def unfinished(built: Built, folder: Path) -> Built:
    """A copy of which all shards but one are to be built."""
    mine = built.copied(folder)
    for ledger in sorted((mine.out / "ledger").iterdir())[1:]:
        ledger.unlink()
    return mine


def facts(out: Path) -> dict[str, Any]:
    manifest = json.loads((out / "manifest.json").read_text())
    return {name: manifest[name] for name in ("files", "counts")}


def test_a_full_disk_is_exit_75_and_the_next_run_finishes(built: Built, tmp_path):
    mine = unfinished(built, tmp_path)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    status, _, err = run("media", str(mine.out), "--ray-address", "none", preexec_fn=limit)
    assert status == 75
    assert re.fullmatch(r"medloom: cannot write .*: the disk is full.*", err.splitlines()[-1])
    assert "Traceback" not in err
    assert run("media", str(mine.out), "--ray-address", "none")[0] == 0
    assert facts(mine.out) == facts(built.out)


def test_ctrl_c_is_exit_130_and_the_next_run_goes_on_where_it_was(built: Built, tmp_path):
    mine = unfinished(built, tmp_path)
    process = command("media", str(mine.out), "--ray-address", "none")
    seen = ""
    while "media 2/" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=100)[1]
    assert process.returncode == 130
    assert rest.splitlines()[-1] == (
        "medloom: interrupted; run the same command again to go on, what was finished stays"
    )
    assert "Traceback" not in rest
    done = {p.name: p.stat().st_mtime_ns for p in (mine.out / "ledger").iterdir()}
    assert len(done) >= 3
    assert run("media", str(mine.out), "--ray-address", "none")[0] == 0
    assert {n: (mine.out / "ledger" / n).stat().st_mtime_ns for n in done} == done
    assert facts(mine.out) == facts(built.out)


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns; return its status and all that it showed."""
    ours, theirs = pty.openpty()
    process = command(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = io.BytesIO()
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown.write(data)
    os.close(ours)
    return process.wait(timeout=60), shown.getvalue().decode()


def test_a_terminal_shows_a_bar_with_rate_and_time_left(built: Built, tmp_path):
    mine = unfinished(built, tmp_path)
    status, shown = on_a_terminal("media", str(mine.out), "--ray-address", "none")
    assert status == 0
    assert "━" in shown
    assert re.search(r"\d+/\d+", shown)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert re.search(r"media: train-\d{6}: \d+ kept, \d+ refused", plain)
    assert re.search(r"media: \d+ done in [\d.]+ s", plain)


@pytest.mark.slow
def test_a_build_from_end_to_end_in_a_pipe(tmp_path):
    source, recipe = sources.write_both(tmp_path / "source"), sources.write_recipe(tmp_path / "both.py")
    for picture in (*(source / "papers").rglob("*.png"), *(source / "papers").rglob("*.jpg")):
        kind = picture.suffix.lstrip(".")
        picture.write_bytes(sources.picture_bytes(sum(picture.name.encode()), kind, size=80))
    arguments = ("build", recipe, "--to", str(tmp_path / "out"), "--set", f"source={source}", "--ray-address", "none")
    status, out, err = run(*arguments)
    assert (status, "Traceback" in err) == (0, False), err
    lines = [line.split()[0] for line in out.splitlines()]
    assert lines == ["built", "refused", "release", "withheld", "open"]
    page = out.splitlines()[-1].split()[-1]
    assert Path(page).is_file()
    for step in ("tables", "media", "examples", "gate", "release"):
        assert re.search(rf"^{step}: \d+ done in [\d.]+ s$", err, re.M), step
    assert not [line for line in err.splitlines() if line.startswith(("INFO", "WARNING"))]
    before = facts(tmp_path / "out")
    status, out, err = run(*arguments, "--json")
    made = json.loads(out)
    assert (status, err) == (0, "")
    assert made["release"]["number"] == 1
    assert facts(tmp_path / "out") == before
    shutil.rmtree(tmp_path / "out/report")
    assert main(["report", str(tmp_path / "out")]) == 0
    assert Path(page).is_file()
