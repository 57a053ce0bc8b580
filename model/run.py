"""RunFolder: what a training run leaves beside its checkpoints: config.json, metrics.jsonl, stream.json, loss.png."""

import json
from pathlib import Path
from typing import Any

from medloom.model.config import FREE, RunConfig
from medloom.model.meter import Meter
from medloom.schemas.errors import ConfigError, FormatError, SourceError
from medloom.schemas.manifest import parse
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION

CONFIG, METRICS, PICTURE = "config.json", "metrics.jsonl", "loss.png"
STREAM_JSON, STREAM_PROMETHEUS = "stream.json", "stream.prom"


class RunFolder:
    """A folder of this machine; rows of metrics.jsonl are either a step's (`loss`) or a `held_out_loss` after a step.

    Raises:
        ConfigError: the URL is not one of a local folder.
    """

    def __init__(self, url: str):
        self.store = Store(url)
        if not self.store.is_local:
            raise ConfigError(f"{url} is not a local folder: checkpoints are renamed into place, so a run needs one")
        self.path = self.store.local("")

    def begin(self, data: str, config: RunConfig) -> None:
        """Write config.json; in a folder that has one, check that it is this run's.

        Raises:
            ConfigError: the folder holds another run.
        """
        wanted = config.to_json()
        if not self.store.exists(CONFIG):
            source = Store(data)
            absolute = source.root if source.is_local else source.url
            text = json.dumps({"format_version": FORMAT_VERSION, "data": absolute, "config": wanted}, indent=1)
            self.store.write(CONFIG, (text + "\n").encode())
            return
        saved, wanted = self.facts()["config"], json.loads(json.dumps(wanted))
        other = sorted(k for k in saved.keys() | wanted.keys() if k not in FREE and saved.get(k) != wanted.get(k))
        if other:
            changed = ", ".join(f"{k}={saved.get(k)!r} there and {wanted.get(k)!r} now" for k in other)
            raise ConfigError(f"{self.path} holds a run of another config ({changed}); choose another folder with --to")

    def facts(self) -> dict[str, Any]:
        """config.json: format_version, data, config.

        Raises:
            SourceError: there is no run here.
        """
        if not self.store.exists(CONFIG):
            raise SourceError(
                f"{self.path} is not a run: it has no {CONFIG}; `medloom train DATA --to {self.path}` makes one"
            )
        return parse(self.store.read(CONFIG), where=f"{self.path}/{CONFIG}")

    def config(self) -> RunConfig:
        """The run's config."""
        return RunConfig.from_json(self.facts()["config"])

    def metrics(self) -> list[dict[str, Any]]:
        """Rows so far; a last line that a killed run left half-written is not one.

        Raises:
            FormatError: another line is not JSON.
        """
        if not self.store.exists(METRICS):
            return []
        lines = self.store.read(METRICS).split(b"\n")[:-1]
        try:
            return [json.loads(line) for line in lines]
        except ValueError as fault:
            raise FormatError(f"{self.path}/{METRICS} holds a line that is not JSON ({fault})") from fault

    def cut_metrics(self, step: int) -> None:
        """Forget the rows after `step`: the checkpoint knows nothing of them and they come again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        self.store.write(METRICS, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def append(self, row: dict[str, Any]) -> None:
        """Add a row."""
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def meter(self, meter: Meter) -> None:
        """Write what the stream cost so far: stream.json, and stream.prom for a collector of text files."""
        told = {"format_version": FORMAT_VERSION, **meter.snapshot(), "verdict": meter.verdict(None)}
        self.store.write(STREAM_JSON, (json.dumps(told, indent=1) + "\n").encode())
        self.store.write(STREAM_PROMETHEUS, meter.prometheus().encode())

    def draw(self) -> Path:
        """Draw loss over steps, held-out loss as dots, and return the picture's path."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib.figure import Figure

        rows = self.metrics()
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        steps = [row for row in rows if "loss" in row]
        held_out = [row for row in rows if "held_out_loss" in row]
        axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], label="training batch")
        axes.plot([r["step"] for r in held_out], [r["held_out_loss"] for r in held_out], "o--", label="held out")
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.legend()
        with self.store.writing(PICTURE) as file:
            figure.savefig(file, format="png", dpi=120)
        return self.path / PICTURE
