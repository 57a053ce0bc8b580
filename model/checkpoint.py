"""Checkpoints: RUN/checkpoints/<step>/ holds all that the next step depends on, whole or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medloom.schemas.errors import FormatError

if TYPE_CHECKING:
    from torch import device, nn, optim

STATE_VERSION = 1
_PARTIAL = ".partial-"  # name prefix of a checkpoint that is being written or deleted


def save(
    run: Path, step: int, *, model: "nn.Module", optimizer: "optim.Optimizer", stream: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of `step`, delete all but the newest `keep`, and return its folder.

    A temporary folder is synced and renamed: a kill at any moment leaves the earlier checkpoints as they were.
    """
    import torch

    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    if _final(folder, step).is_dir():
        return _final(folder, step)
    partial = folder / f"{_PARTIAL}{step}"
    partial.mkdir()
    rng = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}
    with open(partial / "weights.pt", "wb") as file:
        torch.save(model.state_dict(), file)
        _sync(file.fileno())
    with open(partial / "optimizer.pt", "wb") as file:
        torch.save({"optimizer": optimizer.state_dict(), "rng": rng}, file)
        _sync(file.fileno())
    with open(partial / "state.json", "w", encoding="utf-8") as text:
        json.dump({"version": STATE_VERSION, "step": step, "stream": stream}, text, indent=1)
        text.flush()
        _sync(text.fileno())
    os.rename(partial, _final(folder, step))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
    for old in steps(run)[:-keep]:
        os.rename(_final(folder, old), folder / f"{_PARTIAL}{old}")
    _sweep(folder)
    return _final(folder, step)


def steps(run: Path) -> list[int]:
    """Return the steps of which there is a checkpoint, ascending."""
    folder = run / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(run: Path) -> Path | None:
    """Return the folder of the newest checkpoint, None before the first."""
    found = steps(run)
    return _final(run / "checkpoints", found[-1]) if found else None


def load(
    checkpoint: Path, *, model: "nn.Module", optimizer: "optim.Optimizer", device: "device"
) -> tuple[int, dict[str, Any]]:
    """Fill model, optimizer and random generators, and return (step, state of the stream).

    Raises:
        FormatError: it is not a checkpoint of this model.
    """
    import torch

    state = read_state(checkpoint)
    load_weights(checkpoint, model=model, device=device)
    saved = _read(checkpoint / "optimizer.pt", device)
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"]["cpu"].cpu())
    if saved["rng"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([state.cpu() for state in saved["rng"]["cuda"]])
    return state["step"], state["stream"]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return state.json: version, step and the state of the stream.

    Raises:
        FormatError: it is not there, or of another version.
    """
    try:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        version = state["version"]
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise FormatError(
            f"cannot read the checkpoint {checkpoint}: {fault!r}; delete it to go on from the one before"
        ) from fault
    if version != STATE_VERSION:
        raise FormatError(f"the checkpoint {checkpoint} is of version {version}; this MedLoom reads {STATE_VERSION}")
    return dict(state)


def load_weights(checkpoint: Path, *, model: "nn.Module", device: "device") -> None:
    """Fill the model.

    Raises:
        FormatError: these are not weights of this model.
    """
    try:
        model.load_state_dict(_read(checkpoint / "weights.pt", device))
    except RuntimeError as fault:
        raise FormatError(f"{checkpoint} holds weights of another model: {fault}") from fault


def _read(path: Path, device: "device") -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location=device, weights_only=True)  # tensors and plain values, no code
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as fault:
        raise FormatError(
            f"cannot read {path}: {fault}; delete its folder to go on from the checkpoint before"
        ) from fault


def _final(folder: Path, step: int) -> Path:
    return folder / f"{step:08d}"


def _sweep(folder: Path) -> None:
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)
