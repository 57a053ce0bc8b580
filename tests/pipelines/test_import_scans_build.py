"""An imported folder, built: volumes, named masks, reports and questions with the regions that they mean."""

import pytest
from tests import sources
from tests.pipelines.scan_builds import TASKS, scan_release
from tests.pipelines.test_export_m3d import media

from medloom.pipelines.export import export
from medloom.pipelines.import_ import import_
from medloom.schemas.build import Build

RECIPE = '''\
from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.stated_questions import StatedQuestions


def recipe(*, source: Location, deidentify: str = "off") -> Recipe:
    """What an import wrote."""
    scans = Scans("scans", source, deidentify=deidentify, sources_file="SOURCES.json")
    return Recipe(name="imported", sources=(scans,), stages=(Measure(),), tasks=(Captions(), StatedQuestions()))
'''


@pytest.mark.slow
def test_an_imported_folder_builds_with_its_masks_reports_and_questions(tmp_path):
    release = scan_release(tmp_path, media(), tasks=TASKS)
    export("m3d", release.url, str(tmp_path / "there"))
    import_("m3d", str(tmp_path / "there"), str(tmp_path / "back"))
    (tmp_path / "recipe.py").write_text(RECIPE)
    sources.build(tmp_path / "out", str(tmp_path / "recipe.py"), tmp_path / "back/scans")

    build = Build(str(tmp_path / "out"))
    rows = [row for row in build.index().to_pylist() if row["field"] == "json"]
    assert {row["terms_id"] for row in rows} == {"cc-by"}
    labels = sorted(sorted(f"{label['side']} {label['name']}".strip() for label in row["labels"]) for row in rows)
    assert labels == sorted(
        sorted(f"{label.side} {label.name}".strip() for seg in m.seg for label in seg.labels.values())
        for m in media() if m.key != "scan-p"
    )  # fmt: skip
    said = {row["turns"][1]["parts"][0]["text"] for row in build.examples("caption").to_pylist()}
    assert said == {m.text for m in media() if m.key != "scan-p"}
    asked = build.examples("stated_vqa").to_pylist()
    meant = {(region["name"], region["side"]) for row in asked for region in row["regions"]}
    assert {("liver", ""), ("kidney", "left"), ("stomach", "")} <= meant
    assert [row["reason"] for row in build.refusals()] == ["source.terms_file"]  # which is read, and no scan
