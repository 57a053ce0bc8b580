"""Which classes of a scan's masks may be asked for: those that their name alone tells from all others there."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medloom.pipelines.tasks.region_words import Grid, centre_mm, spoken
from medloom.pipelines.tasks.rows import Rows, shuffled
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas import example
from medloom.schemas.errors import Refusal
from medloom.schemas.medium import Region


@dataclass(frozen=True)
class Classes:
    """The classes of one medium.

    Attributes:
        medium: whose they are.
        grid: where its voxels are.
        present: that are there, by layer and value.
        absent: that were labelled and have no voxel.
        mirrored: names whose left is not to the patient's left of their right: label or geometry is wrong, so that
            neither of the two is asked for.
    """

    medium: MediumView
    grid: Grid
    present: tuple[Region, ...]
    absent: tuple[Region, ...]
    mirrored: tuple[str, ...]


def classes_of(unit: UnitView) -> Iterator[Classes]:
    """Give the classes of each of a unit's volumes with masks."""
    for medium in unit.media.values():
        grid = Grid.of(medium)
        if grid is not None and any(region.voxels for region in medium.regions):  # else they were not measured
            yield _classes(medium, grid)


def _classes(medium: MediumView, grid: Grid) -> Classes:
    """Return what can be asked for.

    A name that stands for two classes is not: several values called the same, or a class without side beside one of the
    same name that has one. What was not labelled in this unit is neither there nor absent: nobody looked.
    """
    regions = sorted(medium.regions, key=lambda r: (r.layer, r.value))
    labelled = [r for r in regions if r.label.name and (r.voxels or is_labelled(r, medium.labelled))]
    often = Counter(spoken(r.label) for r in labelled)
    sided = {r.label.name for r in labelled if r.label.side}
    clear = [r for r in labelled if often[spoken(r.label)] == 1 and (r.label.side or r.label.name not in sided)]
    mirrored = tuple(name for name in sorted(sided) if _is_mirrored(name, clear, grid))
    clear = [r for r in clear if not (r.label.side and r.label.name in mirrored)]
    return Classes(medium, grid, tuple(r for r in clear if r.voxels), tuple(r for r in clear if not r.voxels), mirrored)


def is_labelled(region: Region, labelled: Sequence[str]) -> bool:
    """Whether a class was labelled in its unit: `labelled` holds its name, with or without its side, or as stated."""
    return not {region.label.name, spoken(region.label), region.label.stated}.isdisjoint(labelled)


def _is_mirrored(name: str, regions: Sequence[Region], grid: Grid) -> bool:
    """Whether the left of a pair lies to the patient's right of the right one."""
    sides = {r.label.side: centre_mm(r.box, grid)[0] for r in regions if r.label.name == name and r.voxels}
    return "left" in sides and "right" in sides and sides["left"] <= sides["right"]


def mirrored(rows: Rows, classes: Classes) -> Iterator[Refusal]:
    """Give a refusal for each pair whose sides are not where the patient has them."""
    for name in classes.mirrored:
        detail = f"the left {name} lies to the patient's right of the right one: labels or geometry are mirrored"
        yield rows.refusal(classes.medium.key, "region.mirrored", detail)


def some(regions: Sequence[Region], most: int, *, seed: str) -> tuple[Region, ...]:
    """Return at most `most` of `regions` by a hash, in their order; a class that comes later may take a place."""
    kept = set(shuffled([spoken(r.label) for r in regions], seed=seed)[:most])
    return tuple(r for r in regions if spoken(r.label) in kept)


def said(key: str, region: Region, phrase: str) -> example.Region:
    """Return a class as an example refers to it: its mask, its box, and the words that mean it."""
    if not region.voxels:
        raise ValueError(f"{spoken(region.label)} of {key} has no voxel to refer to")
    return example.Region(key, region.layer, region.value, region.box, phrase, region.label.name, region.label.side)
