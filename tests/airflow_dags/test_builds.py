"""The DAG of builds: what it calls, in which order, and what it does with exit statuses."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.demo import small_source

DAGS = Path(__file__).resolve().parents[2] / "airflow_dags"
STEPS = ["fetch", "tables", "media", "examples", "gate", "release", "report", "train"]

# Plays the command line: notes its arguments, ends a step's first, second, … call with the statuses asked for, then 0.
COMMAND = """
import json, os, sys
from pathlib import Path
noted = Path(os.environ["CALLS"])
before = [json.loads(line)[0] for line in noted.read_text().splitlines()].count(sys.argv[1])
with noted.open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print("said by", sys.argv[1])
sys.exit((json.loads(os.environ["STATUS"]).get(sys.argv[1], []) + [0] * (before + 1))[before])
"""

# Airflow reads its configuration once, at import: every case gets a process of its own.
RUN = """
import datetime, json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.db import initdb
initdb()
bag = DagBag(sys.argv[1])
assert bag.import_errors == {}, bag.import_errors
dag = bag.dags["medloom_build"]
for step in dag.tasks:
    assert step.retry_exponential_backoff and step.retry_delay.total_seconds() >= 60
    step.retry_delay = datetime.timedelta(0)  # the test does not wait
run = dag.test(run_conf=json.loads(sys.argv[2]))
tasks = {t.task_id: [str(t.state), t.try_number] for t in run.get_task_instances()}
print("RESULT " + json.dumps({"state": str(run.state), "tasks": tasks}))
"""
LOOK = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
assert bag.import_errors == {}, bag.import_errors
dag = bag.dags["medloom_build"]
print("RESULT " + json.dumps({t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks}))
"""


def airflow(home: Path, code: str, *arguments: str, **environment: str) -> tuple[dict, str]:
    pytest.importorskip("airflow", reason="needs the extra airflow")
    env = os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(DAGS), *arguments],
        env=env | environment, cwd=home, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    results = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads(results[-1]), done.stdout + done.stderr


def played(tmp_path: Path, conf: dict, **status: list[int]) -> tuple[dict, list[list[str]], str]:
    """Run the DAG with a command line that only notes its calls: its result, the calls, the log."""
    script, calls = tmp_path / "command.py", tmp_path / "calls"
    script.write_text(COMMAND)
    calls.touch()
    result, log = airflow(
        tmp_path, RUN, json.dumps(conf),
        MEDLOOM_COMMAND=f"{sys.executable} {script}", CALLS=str(calls), STATUS=json.dumps(status),
    )  # fmt: skip
    return result, [json.loads(line) for line in calls.read_text().splitlines()], log


@pytest.mark.slow
def test_the_dag_loads_and_chains_the_steps(tmp_path):
    edges, _ = airflow(tmp_path, LOOK)
    assert edges == {step: STEPS[i + 1 : i + 2] for i, step in enumerate(STEPS)}


@pytest.mark.slow
def test_parameters_become_arguments_and_nothing_is_read_by_a_shell(tmp_path):
    conf = {
        "recipe": "scans", "out": "a b; touch x", "release": "rel", "run": "run", "settings": ["a=/d $HOME", "n=2"],
        "train_steps": 3, "fetch": "pmc", "raw": "raw; zone", "fetch_settings": ["ids=PMC1,PMC2"],
    }  # fmt: skip
    result, calls, log = played(tmp_path, conf)
    assert result["state"] == "success"
    assert calls == [
        ["fetch", "pmc", "--to", "raw; zone", "--set", "ids=PMC1,PMC2"],
        ["tables", "scans", "--to", "a b; touch x", "--set", "a=/d $HOME", "--set", "n=2"],
        *([step, "a b; touch x"] for step in ("media", "examples", "gate")),
        ["release", "a b; touch x", "--to", "rel"],
        ["report", "a b; touch x"],
        ["train", "rel", "--to", "run", "--steps", "3"],
    ]
    assert "said by gate" in log


@pytest.mark.slow
def test_a_failed_gate_stops_the_run_without_a_retry(tmp_path):
    result, calls, log = played(tmp_path, {}, gate=[1])
    assert result["state"] == "failed"
    assert result["tasks"]["gate"] == ["failed", 1]
    assert [call[0] for call in calls] == ["tables", "media", "examples", "gate"]
    assert "medloom gate ended with 1" in log


@pytest.mark.slow
def test_status_75_is_retried_and_what_is_not_asked_for_is_skipped(tmp_path):
    result, calls, _ = played(tmp_path, {"train_steps": 0}, media=[75, 75])
    assert result["state"] == "success"
    assert [call[0] for call in calls] == ["tables", "media", "media", "media", *STEPS[3:-1]]
    assert result["tasks"]["fetch"][0] == "skipped"
    assert result["tasks"]["train"][0] == "skipped"


@pytest.mark.parametrize("path", sorted(DAGS.glob("*.py")), ids=lambda path: path.name)
def test_dags_import_nothing_but_airflow_and_the_standard_library(path):
    tree = ast.parse(path.read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"airflow"}


@pytest.mark.slow
def test_the_dag_builds_releases_and_trains_with_the_real_command(tmp_path):
    source = small_source(tmp_path / "whole", tmp_path / "small")
    conf = {
        "recipe": "demo", "out": str(tmp_path / "build"), "release": str(tmp_path / "build/releases"),
        "run": str(tmp_path / "run"), "settings": [f"source={source}"], "train_steps": 2,
    }  # fmt: skip
    result, log = airflow(tmp_path, RUN, json.dumps(conf))
    assert result["state"] == "success", log[-4000:]
    assert (tmp_path / "build" / "manifest.json").is_file()
    assert (tmp_path / "build" / "releases" / "0001" / "release.json").is_file()
    assert "release 1" in (tmp_path / "build" / "report" / "report.html").read_text().lower()
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
