"""Public segmentation sets: the 25 of M3D-Seg and AbdomenAtlas, each as it is given out, in one folder or alone."""

from typing import Literal

from medloom.connectors.segmentation_sets.spec import SetSpec, known_sets
from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.set_folders import sources_of
from medloom.pipelines.stages.faces import FaceStatus
from medloom.pipelines.stages.grids import Grid, grid_stages
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.region_tasks import REGION_TASKS
from medloom.schemas.b2nd import DEFAULT_CODEC, Codec
from medloom.schemas.errors import ConfigError


def recipe(
    *,
    source: Location,
    set: str = "auto",
    grid: Grid = "native",
    spacing_mm: float = 1.5,
    raters: Literal["vote", "keep"] = "vote",
    shard_bytes: int = 1 << 30,
    codec: Codec = DEFAULT_CODEC,
) -> Recipe:
    """CT and MR with masks of public sets: volumes with labels of one vocabulary, and what can be asked of them.

    Args:
        source: folder by path or URL that holds one set or several, unpacked or in their archives.
        set: "auto" for every set that is recognised, or one by name or number ("totalsegmentator", "0011").
        grid: "native" keeps voxels as they are, "isotropic" resamples volumes and masks to `spacing_mm`; "m3d" and
            "m3d_aa", "radfm", "ct_rate" and "nnunet" prepare volumes and their values as those projects do.
        spacing_mm: of the grids isotropic and nnunet.
        raters: of masks that several people drew: "vote" keeps what most of them drew, "keep" a layer of each.
        shard_bytes: source bytes after which a shard is full.
        codec: of volumes: "bytedelta_zstd1" is the smaller, "bitshuffle_lz4" the faster, for fast local disks.
    """
    wanted = known_sets().values() if set == "auto" else [spec for spec in known_sets().values() if _is(spec, set)]
    if not wanted:
        known = ", ".join(f"{spec.name} ({spec.number})" for spec in known_sets().values())
        raise ConfigError(f"there is no public set {set!r}; known are {known}")
    return Recipe(
        name="m3d_seg",
        sources=sources_of(source, tuple(wanted), is_named=set != "auto", raters=raters),
        stages=(FaceStatus(), *grid_stages(grid, spacing_mm=spacing_mm, keep_small=True), Measure()),
        tasks=(Captions(), *REGION_TASKS),
        shard_bytes=shard_bytes,
        codec=codec,
    )


def _is(spec: SetSpec, name: str) -> bool:
    return name.lower() in (spec.name, spec.number)
