"""Scans of any folder: DICOM series, NIfTI volumes and images, de-identified by default."""

from typing import Literal

from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.stages.resample import Resample
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import HeaderQuestions


def recipe(
    *,
    source: Location,
    deidentify: Literal["on", "off"] = "on",
    grid: Literal["native", "isotropic"] = "native",
    spacing_mm: float = 1.5,
    group: Literal["folder", "file"] = "folder",
    mask_suffix: str = "",
    terms: str = "private",
    licence: str = "",
    attribution: str = "",
    shard_bytes: int = 1 << 30,
) -> Recipe:
    """DICOM series, NIfTI volumes and images of a folder: volumes in tars, captions and questions from headers.

    Args:
        source: folder by path or URL.
        deidentify: "on" needs MEDLOOM_IDENTITY_KEY; "off" is for public data and is recorded.
        grid: "native" keeps voxels as they are, "isotropic" resamples volumes to `spacing_mm`.
        spacing_mm: of the isotropic grid.
        group: what stands for the patient where a header names none; files of one folder never split by default.
        mask_suffix: ending of a label map's name beside its image ("_seg"), "" for none.
        terms: row of the table of terms that holds for all of it.
        licence, attribution: as stated by the source, and whom to name.
        shard_bytes: source bytes after which a shard is full.
    """
    resample = Resample() if grid == "native" else Resample(spacing_mm=(spacing_mm, spacing_mm, spacing_mm))
    scans = Scans(
        "scans", source, deidentify=deidentify, group=group, terms_id=terms, licence=licence, attribution=attribution,
        mask_suffix=mask_suffix,
    )  # fmt: skip
    return Recipe(
        name="scans",
        sources=(scans,),
        stages=(resample, Measure()),
        tasks=(Captions(), HeaderQuestions()),
        shard_bytes=shard_bytes,
    )
