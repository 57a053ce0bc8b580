"""Grids: the words by which a recipe's user chooses what becomes of voxels, and the stages that each stands for."""

from typing import Literal

from medloom.pipelines.stages.presets import Stages, preset
from medloom.pipelines.stages.resample import Resample

Grid = Literal["native", "isotropic", "m3d", "m3d_aa", "radfm", "ct_rate", "nnunet"]


def grid_stages(grid: Grid, *, spacing_mm: float, keep_small: bool = False) -> Stages:
    """Return the stages of a grid: "native" keeps voxels as they are, in canonical order of axes; "isotropic" resamples
    to `spacing_mm`, cubic and anti-aliased, classes too small for it kept by a voxel where `keep_small` says so; the
    others are presets (see `presets.preset`).
    """
    spacing = (spacing_mm, spacing_mm, spacing_mm)
    if grid == "native":
        return (Resample(),)
    if grid == "isotropic":
        return (Resample(spacing_mm=spacing, keep_small=keep_small),)
    return preset(grid, spacing_mm=spacing if grid == "nnunet" else None)
