"""Runs with MONAI on its path: resamples the arrays named on standard input and tells what it took.

A request is one line of JSON {"input": npy, "transform", "case": "A" or "B", "output": npy or ""}, an answer {"cpu": s,
"peak_mb", "first_mm", "spacing_mm"}. Imports nothing of ours.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

SPACING_MM = (2.5, 0.7, 0.7)


def status_mb(name):
    """Return a line of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main():
    """Answer until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    from monai.data import MetaTensor
    from monai.transforms import Resize, Spacing

    torch.set_num_threads(1)
    affine = torch.tensor(np.diag([*SPACING_MM, 1.0]))
    spacing = {"mode": "bilinear", "padding_mode": "border", "dtype": torch.float32}
    transforms = {
        ("monai-spacing", "A"): Spacing(pixdim=(1.5, 1.5, 1.5), **spacing),
        ("monai-spacing", "B"): Spacing(pixdim=(9.375, 1.4, 1.4), **spacing),
        ("monai-resize", "A"): Resize(spatial_size=(200, 239, 239), mode="trilinear"),
        ("monai-resize", "B"): Resize(spatial_size=(32, 256, 256), mode="trilinear"),
    }
    loaded = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["input"] not in loaded:
            loaded = {asked["input"]: torch.from_numpy(np.load(asked["input"]))[None]}
        before = status_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        start = time.process_time()
        made = transforms[asked["transform"], asked["case"]](MetaTensor(loaded[asked["input"]], affine=affine.clone()))
        cpu = time.process_time() - start
        if asked["output"]:
            np.save(asked["output"], made[0].numpy())
        made_affine = np.asarray(made.affine)
        answer = {"cpu": cpu, "peak_mb": status_mb("VmHWM") - before, "first_mm": made_affine[:3, 3].tolist()}
        answer["spacing_mm"] = np.linalg.norm(made_affine[:3, :3], axis=0).tolist()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
