"""`medloom train` and `medloom evaluate` as a user runs them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.model.tiny import FILE
from typer.testing import CliRunner

from medloom.model import checkpoint
from medloom.model.cli import needing_torch, register
from medloom.schemas.errors import ConfigError

pytest.importorskip("torch")
pytest.importorskip("transformers")

app = typer.Typer()
register(app)


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def run(shared_build, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.py").write_text(FILE)
    done = invoke(
        "train", shared_build, "--to", str(folder / "run"), "--config", str(folder / "config.py"), "--steps", "3"
    )
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:5]] == ["step 0/3", "step 1/3", "step 2/3", "step 3/3", "step 3/3"]
    assert "held-out loss" in lines[-1]
    assert re.search(r"waited \d+\.\d% of 3 steps for data", lines[-1])
    return str(folder / "run")


def test_train_json_is_one_object_on_stdout(shared_build, run):
    config = str(Path(run).parent / "config.py")
    done = invoke("train", shared_build, "--to", run, "--config", config, "--steps", "4", "--json")
    facts = json.loads(done.stdout)
    assert (facts["step"], facts["finished"]) == (4, True)
    assert facts["loss_after"] < facts["loss_before"]
    assert "step 4/4" in done.stderr


def test_evaluate_prints_a_table_or_json(run):
    pytest.importorskip("sacrebleu")
    shown = invoke("evaluate", run, "--examples", "2", "--texts", "1", "--text-bytes", "4")
    assert shown.exit_code == 0
    for word in ("caption", "header_vqa", "nats per byte", "blind gap", "chance", "chrf"):
        assert word in shown.stdout
    as_json = invoke("evaluate", run, "--examples", "2", "--texts", "0", "--json")
    assert json.loads(as_json.stdout)["tasks"]["header_vqa"]["closed"]["questions"] == 2


def test_an_unknown_device_is_the_users_mistake(shared_build, tmp_path):
    with pytest.raises(ConfigError, match="tpu"):
        invoke("train", shared_build, "--to", str(tmp_path / "run"), "--device", "tpu")


def test_ctrl_c_writes_a_checkpoint_and_exits_130(shared_build, tmp_path):
    (tmp_path / "config.py").write_text(FILE.replace("steps=8", "steps=5000").replace("every=3", "every=5000"))
    command = [
        sys.executable, "-m", "medloom", "train", shared_build,
        "--to", str(tmp_path / "run"), "--config", str(tmp_path / "config.py"),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert any(line.startswith("step 3/5000") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    stopped = checkpoint.steps(tmp_path / "run")[-1]
    assert 3 <= stopped < 5000
    assert f"stopped at step {stopped} of 5000" in out
    assert "Traceback" not in err


def test_a_missing_library_names_the_extra():
    with pytest.raises(ConfigError, match=r'transformers.*pip install "medloom\[train\]"'), needing_torch():
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    with pytest.raises(ModuleNotFoundError), needing_torch():
        raise ModuleNotFoundError("No module named 'medloom.model.lost'", name="medloom.model.lost")


def test_without_torch_train_says_what_to_install(shared_build, tmp_path):
    script = (
        "import sys\nsys.modules['torch'] = None\n"
        "from medloom.__main__ import main\n"
        f"sys.exit(main(['train', {shared_build!r}, '--to', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "medloom[train]"' in done.stderr
    assert "Traceback" not in done.stderr
