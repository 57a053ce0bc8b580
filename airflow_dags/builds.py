"""The DAG that fetches, builds, gates and releases training data, and trains on it: each task is one medloom command.

Airflow's own environment needs neither medloom nor what it brings: MEDLOOM_COMMAND, set where the workers run, names
the command line of another environment ("/srv/medloom/.venv/bin/medloom"); unset, it is this Python's.
"""

import os
import shlex
import subprocess
import sys
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, chain, dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

WORTH_RETRYING = 75  # medloom's exit status for a fault that another run may not meet; 1 and 2 would only fail again
STEPS = ("fetch", "tables", "media", "examples", "gate", "release", "report", "train")
A_PLACE = {"type": "string", "minLength": 1, "pattern": "^[^-]"}  # a folder or URI, never read as an option


def command(step: str, params: dict[str, Any]) -> list[str]:
    """Return the command line of `step`; each value is one argument, no shell reads it."""
    start = shlex.split(os.environ.get("MEDLOOM_COMMAND") or shlex.join([sys.executable, "-m", "medloom"]))
    settings = [word for setting in params["settings"] for word in ("--set", setting)]
    asked = [word for setting in params["fetch_settings"] for word in ("--set", setting)]
    arguments = {
        "fetch": [params["fetch"], "--to", params["raw"], *asked],
        "tables": [params["recipe"], "--to", params["out"], *settings],
        "release": [params["out"], "--to", params["release"]],
        "train": [params["release"], "--to", params["run"], "--steps", str(params["train_steps"])],
    }
    return [*start, step, *arguments.get(step, [params["out"]])]


@dag(
    schedule=None,
    catchup=False,
    tags=["medloom"],
    params={
        "fetch": Param("", type="string", pattern="^[a-z_]*$", description="service to fetch from first; empty: none"),
        "raw": Param("raw", **A_PLACE, description="raw zone that fetch fills; a recipe reads it by source=…"),
        "fetch_settings": Param(
            [], type="array", items={"type": "string", "pattern": "^[a-z_]+="}, description="name=value, of the service"
        ),
        "recipe": Param("demo", **A_PLACE, description="name of a recipe, or path of a recipe's file"),
        "out": Param("out/airflow", **A_PLACE, description="where the build goes; build again into it to add units"),
        "release": Param(
            "out/airflow/releases", **A_PLACE, description="numbered releases; the report shows the build's own"
        ),
        "run": Param("out/airflow-run", **A_PLACE, description="where training leaves checkpoints and metrics"),
        "settings": Param([], type="array", items={"type": "string", "pattern": "^[a-z_]+="}, description="name=value"),
        "train_steps": Param(0, type="integer", minimum=0, description="0: no training"),
    },
)
def medloom_build() -> None:
    """Fetch if a service is named, tables, media, examples, gate, release, report, then `train_steps` of training."""

    @task(retries=4, retry_delay=timedelta(minutes=1), retry_exponential_backoff=2, max_retry_delay=timedelta(hours=1))
    def run(step: str, params: dict[str, Any] | None = None) -> None:
        values = dict(params or {})
        if step == "train" and not values["train_steps"]:
            raise AirflowSkipException("train_steps is 0")
        if step == "fetch" and not values["fetch"]:
            raise AirflowSkipException("no service is named")
        words = command(step, values)
        print(shlex.join(words), flush=True)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                for line in process.stdout or ():
                    print(line, end="", flush=True)
            except BaseException:
                process.terminate()  # medloom keeps finished shards; a cleared task leaves no writer behind
                raise
        if process.returncode == WORTH_RETRYING:
            raise AirflowException(f"medloom {step} ended with {WORTH_RETRYING}, which is worth retrying")
        if process.returncode != 0:
            raise AirflowFailException(f"medloom {step} ended with {process.returncode}; its last lines say why")

    # A fetch that was skipped is no failure: what is at the source already is built.
    rules = {"tables": "none_failed"}
    chain(*[run.override(task_id=step, trigger_rule=rules.get(step, "all_success"))(step) for step in STEPS])


medloom_build()
