"""The source folder of the recipe `demo`: real articles and scans that installed packages carry, laid out for reading.

    articles/       *.xml: the 122 PLOS articles of allofplos, without their figure files
    case_reports/   *.xml: articles written for MedLoom; *.png, *.jpg: their figures, drawn from scans (`demo_figures`);
                    modalities.json: name of a figure file to its modality
    scans/dicom/    files of pydicom and pydicom-data: single images, series in folders, and some that are no image
    scans/nifti/    mni_t1.nii.gz, the ICBM 152 template, and mni_t1_tissues.nii.gz, a label map of its tissue maps

Beside each of the three, `SOURCES.json` says for every file which package and version it is from, under what terms.
"""

import gzip
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path

from medloom.pipelines.recipes.demo_figures import PLATES, draw
from medloom.schemas.errors import ConfigError, RetryLater

LAYOUT_VERSION = "2"
MARK = "VERSION"
TISSUES = {1: "grey matter", 2: "white matter"}


@dataclass(frozen=True)
class Record:
    """What `SOURCES.json` says of one file.

    Attributes:
        package, version: which brought it; "medloom" for what was written here.
        licence: as stated there, verbatim or in short; "unknown" where nothing is stated.
        evidence: where that is stated.
        terms_id: row of `medloom.schemas.origin.TERMS`.
        attribution: whom to name.
        derived_from: the packages' files that this one was made of; () for an unchanged copy.
        sha256: of the file.
    """

    package: str
    version: str
    licence: str
    evidence: str
    terms_id: str
    attribution: str
    derived_from: tuple[str, ...] = ()
    sha256: str = ""


_PLOS = Record(
    "allofplos", "", "see each article", "the article's own license element", "cc-by", "the article's authors"
)
_PYDICOM = Record("pydicom", "", "MIT", "licence of the package", "mit", "pydicom contributors")
_DATA = Record("pydicom-data", "", "MIT", "licence of the package", "mit", "Darcy Mason and contributors")
_PANCREAS = Record(
    "pydicom-data", "", "CC BY 3.0", "PatientID names Pancreas-CT of The Cancer Imaging Archive", "cc-by",
    "Roth H. et al., Pancreas-CT, The Cancer Imaging Archive",
)  # fmt: skip
_TEMPLATE = Record(
    "nilearn", "",
    "Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University; free to use, copy, modify and distribute with this notice",
    "notice of the Montreal Neurological Institute for its ICBM templates (nilearn's own description: unknown)",
    "icbm-152",
    "Fonov V. et al., ICBM 152 nonlinear 2009, McConnell Brain Imaging Centre, McGill University",
)  # fmt: skip
_WRITTEN = Record(
    "medloom", LAYOUT_VERSION, "CC0 1.0", "the article's license element", "cc0-1.0", "MedLoom contributors"
)

# One file of every series, besides whole series in folders: other encodings of the same image would be duplicates.
# 693_*.dcm are left out: their PatientID names CQ500, whose terms forbid commercial use.
_DICOM = (
    "pydicom:CT_small.dcm", "pydicom:J2K_pixelrep_mismatch.dcm", "pydicom:ExplVR_BigEnd.dcm", "pydicom:SC_rgb_jpeg.dcm",
    "pydicom:SC_jpeg_no_color_transform.dcm", "pydicom:examples_ybr_color.dcm", "pydicom:examples_palette.dcm",
    "pydicom:GDCMJ2K_TextGBR.dcm", "pydicom:image_dfl.dcm", "pydicom-data:MR2_J2KR.dcm", "pydicom-data:RG1_J2KR.dcm",
    "pydicom-data:RG3_J2KR.dcm", "pydicom-data:US1_J2KR.dcm", "pydicom-data:JPEG-LL.dcm", "pydicom-data:color-px.dcm",
    "pydicom-data:MR-SIEMENS-DICOM-WithOverlays.dcm", "pydicom-data:explicit_VR-UN.dcm", "pydicom-data:emri_small.dcm",
    "pydicom-data:bad_sequence.dcm", "pydicom-data:JPGLosslessP14SV1_1s_1f_8b.dcm", "pydicom-data:eCT_Supplemental.dcm",
    "pydicom-data:gdcm-US-ALOKA-16.dcm", "pydicom-data:mlut_18.dcm", "pydicom-data:vlut_04.dcm",
    # Not images, or not readable: a truncated file, a spoilt one, a segmentation without its image, a dose with a
    # wrong value, plans, structures, a report, an ECG, a data set without image.
    "pydicom:MR_truncated.dcm", "pydicom-data:OT-PAL-8-face.dcm", "pydicom-data:liver.dcm", "pydicom:badVR.dcm",
    "pydicom:rtplan.dcm", "pydicom:rtstruct.dcm", "pydicom:test-SR.dcm", "pydicom:waveform_ecg.dcm",
    "pydicom:UN_sequence.dcm",
)  # fmt: skip
# Whole series, 16 × 16 pixels a slice: CT5N five neighbouring slices; CT2 a series with a gap; CT2N two scouts.
_SERIES = (
    "77654033/CR1",
    "77654033/CR2",
    "77654033/CR3",
    "77654033/CT2",
    "98892001/CT2N",
    "98892001/CT5N",
    "98892003/MR700",
)
_MAPS = {tissue: f"nilearn:mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz" for tissue in ("t1", "gm", "wm")}


def prepare(folder: Path) -> None:
    """Lay out the source of the recipe `demo` in `folder`, about 45 MB; nothing is done where it already stands.

    The whole is built beside `folder` and moved into place, so that `folder` is always complete. The same versions
    of the packages give the same bytes.

    Raises:
        ConfigError: a package of the extra `demo` is missing, or `folder` holds something else.
        RetryLater: the disk is full, or cannot be written.
    """
    state = _state()
    if folder.exists():
        mark = folder / MARK
        if mark.is_file() and mark.read_text() == state:
            return
        if not mark.is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                f"cannot lay out the demo's source in {folder}: it holds something else; name another folder"
            )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as work:
            made = Path(work) / "made"
            _articles(made / "articles")
            _case_reports(made / "case_reports")
            _scans(made / "scans")
            (made / MARK).write_text(state)
            if folder.exists():
                folder.rename(Path(work) / "old")
            made.rename(folder)
    except OSError as error:
        raise RetryLater(f"cannot lay out the demo's source in {folder}: {error.strerror}") from error


def _articles(folder: Path) -> None:
    folder.mkdir(parents=True)
    records = {path.name: _copy(path, folder / path.name, _PLOS) for path in _packaged("allofplos", "*.xml")}
    _write_records(folder, records)


def _case_reports(folder: Path) -> None:
    folder.mkdir(parents=True)
    records = {}
    for path in sorted(_written().glob("*.xml")):
        records[path.name] = _copy(path, folder / path.name, _WRITTEN)
    for name, plate in PLATES.items():
        scans = list(dict.fromkeys(panel.scan for panel in plate.panels))
        data = draw(plate, {scan: _file(scan) for scan in scans}, format="PNG" if name.endswith(".png") else "JPEG")
        (folder / name).write_bytes(data)
        records[name] = replace(_record(scans[0]), derived_from=tuple(scans), sha256=_sha256(data))
    modalities = {name: plate.modality for name, plate in sorted(PLATES.items())}
    (folder / "modalities.json").write_text(json.dumps(modalities, indent=1) + "\n")
    _write_records(folder, records)


def _scans(folder: Path) -> None:
    records = {}
    for name in _DICOM:
        path = f"dicom/{name.partition(':')[2]}"
        records[path] = _copy(_file(name), folder / path, _record(name))
    for series in _SERIES:
        for source in sorted(_file(f"pydicom:dicomdirtests/{series}").iterdir()):
            path = f"dicom/{series}/{source.name}"
            records[path] = _copy(source, folder / path, _PYDICOM)
    records["nifti/mni_t1.nii.gz"] = _copy(_file(_MAPS["t1"]), folder / "nifti/mni_t1.nii.gz", _TEMPLATE)
    data = _tissues()
    (folder / "nifti/mni_t1_tissues.nii.gz").write_bytes(data)
    made_of = (_MAPS["gm"], _MAPS["wm"])
    records["nifti/mni_t1_tissues.nii.gz"] = replace(_TEMPLATE, derived_from=made_of, sha256=_sha256(data))
    _write_records(folder, records)


def _tissues() -> bytes:
    """Return a gzipped NIfTI of `TISSUES`: in each voxel the likeliest of grey matter, white matter and neither (0)."""
    import nibabel
    import numpy as np

    maps = {tissue: nibabel.load(_file(_MAPS[tissue])) for tissue in ("gm", "wm")}
    grey, white = (np.asarray(maps[tissue].dataobj).astype(np.int16) for tissue in ("gm", "wm"))  # type: ignore[attr-defined]
    labels = np.argmax(np.stack([255 - grey - white, grey, white]), axis=0).astype(np.uint8)  # maps are 0 to 255
    image = nibabel.Nifti1Image(labels, maps["gm"].affine)  # type: ignore[attr-defined]
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _copy(source: Path, target: Path, record: Record) -> Record:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return replace(record, sha256=_sha256(source.read_bytes()))


def _record(name: str) -> Record:
    if name == "pydicom-data:explicit_VR-UN.dcm":
        return _PANCREAS
    return {"pydicom": _PYDICOM, "pydicom-data": _DATA, "nilearn": _TEMPLATE}[name.partition(":")[0]]


def _write_records(folder: Path, records: dict[str, Record]) -> None:
    shown = {}
    for path, record in sorted(records.items()):
        version = record.version or metadata.version(record.package)
        shown[path] = asdict(replace(record, version=version))
    (folder / "SOURCES.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _state() -> str:
    """Return what decides the bytes of the folder: layout, versions of packages, and the articles written here."""
    packages = ("allofplos", "pydicom", "pydicom-data", "nilearn", "pillow", "numpy", "nibabel")
    try:
        versions = "".join(f"{name} {metadata.version(name)}\n" for name in packages)
    except metadata.PackageNotFoundError as error:
        raise ConfigError(f"the demo needs the package {error.name}: pip install 'medloom[demo]'") from None
    written = _sha256(b"".join(path.read_bytes() for path in sorted(_written().glob("*.xml"))))
    return f"layout {LAYOUT_VERSION}\n{versions}articles {written}\nfigures {_sha256(repr(PLATES).encode())}\n"


def _written() -> Path:
    return Path(str(resources.files("medloom.pipelines.recipes"))) / "demo_articles"


_FOLDERS = {
    "allofplos": ("allofplos", "starter_corpus"),
    "pydicom": ("pydicom", "data/test_files"),
    "pydicom-data": ("data_store", "data"),
    "nilearn": ("nilearn", "datasets/data"),
}


def _packaged(package: str, pattern: str) -> list[Path]:
    return sorted(_folder(package).glob(pattern))


def _file(name: str) -> Path:
    """Return where "package:path" lies."""
    package, _, path = name.partition(":")
    return _folder(package) / path


def _folder(package: str) -> Path:
    """Return the folder of a package's data, without importing the package."""
    module, inside = _FOLDERS[package]
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"the demo needs the package {package}: pip install 'medloom[demo]'")
    return Path(os.fspath(spec.submodule_search_locations[0])) / inside


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
