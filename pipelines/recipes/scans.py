"""Scans of any folder: DICOM series, NIfTI volumes and images, de-identified by default."""

from typing import Literal

from medloom.connectors.dicom import Policy
from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.stages.burned_in import BurnedInText
from medloom.pipelines.stages.faces import FaceStatus
from medloom.pipelines.stages.grids import Grid, grid_stages
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import HeaderQuestions
from medloom.pipelines.tasks.region_tasks import REGION_TASKS
from medloom.pipelines.tasks.stated_questions import StatedQuestions
from medloom.schemas.b2nd import DEFAULT_CODEC, Codec


def recipe(
    *,
    source: Location,
    deidentify: Literal["on", "off"] = "on",
    grid: Grid = "native",
    spacing_mm: float = 1.5,
    group: Literal["folder", "file"] = "folder",
    mask_suffix: str = "",
    sources_file: str = "",
    gaps: Literal["refuse", "regularise", "split"] = "refuse",
    tilt: Literal["keep", "refuse", "unshear"] = "keep",
    films: Literal["refuse", "key_frames"] = "refuse",
    burned_in: Literal["auto", "mask", "quarantine", "off"] = "auto",
    captures: Literal["quarantine", "read"] = "quarantine",
    terms: str = "private",
    licence: str = "",
    attribution: str = "",
    shard_bytes: int = 1 << 30,
    codec: Codec = DEFAULT_CODEC,
) -> Recipe:
    """DICOM series, NIfTI volumes and images of a folder: volumes in tars, captions and questions from headers.

    Args:
        source: folder by path or URL.
        deidentify: "on" needs MEDLOOM_IDENTITY_KEY; "off" is for public data and is recorded.
        grid: "native" keeps voxels as they are, "isotropic" resamples volumes to `spacing_mm`; "m3d", "m3d_aa",
            "radfm", "ct_rate" and "nnunet" prepare volumes and their values as those projects do.
        spacing_mm: of the grids isotropic and nnunet.
        group: what stands for the patient where a header names none; files of one folder never split by default.
        mask_suffix: ending of a label map's name beside its image ("_seg"), "" for none.
        sources_file: JSON file in the folder that says the terms of its files, and with deidentify=off their reports
            and questions, as an import of scans writes it (SOURCES.json); "" for none.
        gaps: of a DICOM series with missing or unevenly spaced slices: "refuse" it, "regularise" it onto the smallest
            step, linear between slices, or "split" it into runs that are regular.
        tilt: of a DICOM series whose slices are shifted against each other (a tilted gantry): "keep" its grid with the
            exact, sheared affine, "refuse" it, or "unshear" it slice by slice.
        films: of DICOM frames without a place each: "refuse" them, or keep the "key_frames" (first, middle, last).
        burned_in: text in pictures: "mask" covers it, "quarantine" refuses the picture, "off" looks for none; "auto"
            is "mask", and "off" with deidentify=off.
        captures: saved screens, sheets of doses and photographs: "quarantine" them (with deidentify=on), or "read"
            them as pictures.
        terms: row of the table of terms that holds for all of it.
        licence, attribution: as stated by the source, and whom to name.
        shard_bytes: source bytes after which a shard is full.
        codec: of volumes: "bytedelta_zstd1" is the smaller, "bitshuffle_lz4" the faster, for fast local disks.
    """
    scans = Scans(
        "scans", source, deidentify=deidentify, group=group, terms_id=terms, licence=licence, attribution=attribution,
        mask_suffix=mask_suffix, sources_file=sources_file, policy=Policy(gaps, tilt, films), captures=captures,
    )  # fmt: skip
    usual: Literal["mask", "off"] = "mask" if deidentify == "on" else "off"
    text = BurnedInText(usual if burned_in == "auto" else burned_in)
    return Recipe(
        name="scans",
        sources=(scans,),
        stages=(text, FaceStatus(), *grid_stages(grid, spacing_mm=spacing_mm), Measure()),
        tasks=(Captions(), HeaderQuestions(), StatedQuestions(), *REGION_TASKS),
        shard_bytes=shard_bytes,
        codec=codec,
    )
