"""A small part of the demo's source: one real article, one synthetic case report with its figures, a few scans."""

import shutil
from pathlib import Path

from medloom.pipelines.recipes.demo_source import MARK, prepare

SCANS = ("scans/SOURCES.json", "scans/dicom/CT_small.dcm", "scans/dicom/rtplan.dcm", "scans/nifti/mni_t1.nii.gz")


def small_source(whole: Path, folder: Path) -> Path:
    """Lay out the demo's source in `whole`, and in `folder` the few files of it that make a build of seconds."""
    prepare(whole)
    article = sorted((whole / "articles").glob("*.xml"))[0]
    report = sorted((whole / "case_reports").glob("*.xml"))[3]
    figures = sorted(report.parent.glob(f"{report.stem}-*"))
    kept = [whole / MARK, article, report, *figures, *(whole / name for name in SCANS)]
    for path in kept:
        target = folder / path.relative_to(whole)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder
