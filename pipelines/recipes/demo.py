"""The demo: real articles and scans that installed packages carry, with synthetic case reports around real images."""

from pathlib import Path

from medloom.connectors.settings import cache_folder
from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.recipes.demo_figures import PLATES
from medloom.pipelines.recipes.demo_source import LAYOUT_VERSION, TISSUES, prepare
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.stages.resample import Resample
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import HeaderQuestions
from medloom.pipelines.tasks.interleaved import Interleaved
from medloom.pipelines.tasks.text_questions import TextQuestions


def recipe(
    *,
    source: Location = "",
    llm: Location = "embedded",
    spacing_mm: float = 2.0,
    questions_per_unit: int = 4,
) -> Recipe:
    """122 PLOS articles, 9 synthetic case reports with real images, public DICOM files and the MNI brain, all offline.

    Args:
        source: folder where the demo's source is laid out; "" for a folder in the user's cache.
        llm: "embedded" (a model of 135 M parameters on this machine) or the URL of an OpenAI-compatible server.
        spacing_mm: of the grid to which volumes are resampled.
        questions_per_unit: most questions that the language model phrases for one article.
    """
    folder = Path(source) if source else cache_folder() / f"demo-{LAYOUT_VERSION}"
    prepare(folder)
    modalities = tuple(sorted((name, plate.modality) for name, plate in PLATES.items()))
    scans = Scans(
        "scans",
        str(folder / "scans"),
        deidentify="off",  # files that pydicom, pydicom-data and nilearn publish
        terms_id="unknown",
        sources_file="SOURCES.json",
        mask_suffix="_tissues",
        mask_labels=tuple(sorted(TISSUES.items())),
        modality="MR",
        body_part="head",
    )
    return Recipe(
        name="demo",
        sources=(
            Papers("plos", str(folder / "articles")),
            Papers("case_reports", str(folder / "case_reports"), modalities=modalities),
            scans,
        ),
        stages=(Resample(spacing_mm=(spacing_mm, spacing_mm, spacing_mm)), Measure()),
        tasks=(Captions(), Interleaved(), HeaderQuestions(), TextQuestions(per_unit=questions_per_unit)),
        llm=llm,
        shares={"train": 0.8, "validation": 0.1, "test": 0.1},
        shard_bytes=8 << 20,
    )
