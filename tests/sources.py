"""Small source folders: papers with figures, scans and a recipe over both, where equal calls give equal bytes.

All articles are synthetic. Pixels come from seeded generators and closed forms, so that a test can say what must come.
"""

import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from medloom.pipelines import steps
from medloom.pipelines.adoption import Rebuild
from medloom.pipelines.steps import Step, Where

UID_ROOT = "1.2.826.0.1.3680043.8.498."  # pydicom's own; the numbers below it are ours
LICENCES = (
    '<license xlink:href="https://creativecommons.org/licenses/by/4.0/"><license-p>This is an open access article '
    "under the terms of the Creative Commons Attribution License.</license-p></license>",
    '<license xlink:href="https://creativecommons.org/publicdomain/zero/1.0/"><license-p>Dedicated to the public '
    "domain (CC0).</license-p></license>",
    "",
)
HREFS = ("{stem}.{ending}", "{stem}", "https://example.org/figures/{stem}.{ending}", "info:doi/10.9999/journal.{stem}")
RECIPE = '''\
"""Papers and scans together, in shards of a few files; for tests."""

from medloom.pipelines.recipe import Location, Recipe
from medloom.pipelines.sources.papers import Papers
from medloom.pipelines.sources.scans import Scans
from medloom.pipelines.stages.measure import Measure
from medloom.pipelines.tasks.captions import Captions
from medloom.pipelines.tasks.header_questions import HeaderQuestions
from medloom.pipelines.tasks.interleaved import Interleaved
EXTRA

def recipe(*, source: Location, deidentify: str = "off", shard_bytes: int = 12_000) -> Recipe:
    """Both kinds of sources, no language model."""
    scans = Scans("scans", source + "/scans", deidentify=deidentify, terms_id="cc0-1.0", mask_suffix="_seg")
    return Recipe(
        name="both", sources=SOURCES, stages=STAGES, tasks=TASKS,
        shares={"train": 0.6, "validation": 0.2, "test": 0.2}, shard_bytes=shard_bytes,
    )
'''


def write_recipe(
    path: Path,
    *,
    extra: str = "",
    sources: str = '(Papers("papers", source + "/papers"), scans)',
    stages: str = "(Measure(),)",
    tasks: str = "(Captions(), Interleaved(), HeaderQuestions())",
) -> str:
    """Write a recipe file over `source`/papers and `source`/scans; return its path."""
    text = RECIPE.replace("EXTRA", extra).replace("SOURCES", sources).replace("STAGES", stages).replace("TASKS", tasks)
    path.write_text(text)
    return str(path)


def write_both(folder: Path, n_papers: int = 12) -> Path:
    """Write `folder`/papers and `folder`/scans; return `folder`."""
    write_papers(folder / "papers", n_papers)
    write_scans(folder / "scans")
    return folder


def write_papers(folder: Path, n: int, *, first: int = 1) -> None:
    """Write n articles, numbers from `first`: two figures each, their files named in several ways, a few of them odd.

    By number: every third has no licence, another CC0; every 4th shows a figure by permission; every 5th is retracted;
    every 6th lacks the file of its second figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + n):
        write_paper(folder, number)


def write_paper(folder: Path, number: int, *, word: str = "opacity") -> None:
    """Write one article and its figure files; see `write_papers`."""
    figures = []
    for i in (1, 2):
        ending = "png" if (number + i) % 2 else "jpg"
        stem = f"a{number:03d}-g{i}"
        if not (number % 6 == 0 and i == 2):
            into = folder / f"a{number:03d}" if number % 2 and i == 1 else folder
            into.mkdir(exist_ok=True)
            (into / f"{stem}.{ending}").write_bytes(picture_bytes(number * 10 + i, ending))
        href = HREFS[(number + i) % len(HREFS)].format(stem=stem, ending=ending)
        permission = (
            "<permissions><license><license-p>Reproduced with permission from Elsevier.</license-p></license>"
            "</permissions>" if number % 4 == 0 and i == 2 else ""
        )  # fmt: skip
        figures.append(
            f'<fig id="F{i}"><label>Figure {i}.</label><caption><p>An {word} in lobe {number}, view {i}.</p></caption>'
            f'<graphic xlink:href="{href}"/>{permission}</fig>'
        )
    (folder / f"a{number:03d}.xml").write_text(_article(number, "".join(figures), word))


def _article(number: int, figures: str, word: str) -> str:
    retracted = (
        '<related-article related-article-type="retracted-by" id="r1" xlink:href="x"/>' if number % 5 == 0 else ""
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<article xmlns:xlink="http://www.w3.org/1999/xlink" article-type="case-report" xml:lang="en"><front>
<journal-meta><journal-title-group><journal-title>Synthetic Cases</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmc">PMC{9000000 + number}</article-id>
<article-id pub-id-type="doi">10.9999/synthetic.{number}</article-id>
<title-group><article-title>Synthetic case {number}</article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>Nobody</surname><given-names>N</given-names></name>
</contrib></contrib-group><pub-date pub-type="epub"><year>2024</year></pub-date>{retracted}
<permissions>{LICENCES[number % 3]}</permissions></article-meta></front>
<body><sec><title>Case</title><p>The film showed an {word} (Figure 1). It had gone a week later (<xref ref-type="fig"
rid="F2">Figure 2</xref>). Nothing else was found in case {number}.</p>{figures}</sec></body></article>
"""


def picture_bytes(seed: int, ending: str, *, size: int = 48, **saved: Any) -> bytes:
    """Return a small picture with a bright square in noise, as PNG or JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 60, (size, size + 8, 3)).astype(np.uint8)
    pixels[8:24, 8 + seed % 16 : 30 + seed % 16] = 200 - seed % 90
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if ending == "jpg" else "PNG", **saved)
    return file.getvalue()


def write_scans(folder: Path) -> None:
    """Write two CT series of two patients, a NIfTI volume with its label map, one without, and two images."""
    write_ct(folder / "patient-a" / "ct", patient="A-1", series=1, n=6)
    write_ct(folder / "patient-b" / "ct", patient="B-2", series=2, n=5)
    write_nifti(folder / "brain" / "brain.nii.gz", seed=3)
    write_nifti(folder / "brain" / "brain_seg.nii.gz", seed=3, is_mask=True)
    write_nifti(folder / "alone" / "alone.nii", seed=4)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    (images / "one.png").write_bytes(picture_bytes(901, "png", size=64))
    (images / "two.jpg").write_bytes(picture_bytes(902, "jpg", size=64))


def write_ct(folder: Path, *, patient: str, series: int, n: int, first: int = 0, **elements: Any) -> None:
    """Write n axial slices of one CT series, 2.5 mm apart, slice k at z = 2.5 k."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(first, first + n):
        write_slice(folder / f"slice{k:02d}.dcm", patient=patient, series=series, k=k, **elements)


def write_slice(path: Path, *, patient: str, series: int, k: int, **elements: Any) -> None:
    """Write one 32 × 40 CT slice; `elements` are further attributes by keyword."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{UID_ROOT}{series}.{k + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = f"{UID_ROOT}0"
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    facts = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": f"{UID_ROOT}{series}", "StudyInstanceUID": f"{UID_ROOT}{series}.0.1",
        "PatientID": patient, "Modality": "CT", "BodyPartExamined": "CHEST", "InstanceNumber": k + 1,
        "ImagePositionPatient": [-20.0, -16.0, 2.5 * k], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1.0, 1.0], "SliceThickness": 2.5, "RescaleSlope": 1, "RescaleIntercept": -1024,
        "Rows": 32, "Columns": 40, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 0,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    } | elements  # fmt: skip
    for name, value in facts.items():
        setattr(data, name, value)
    data.PixelData = ct_slice(series, k).tobytes()
    pydicom.dcmwrite(path, data)


def ct_slice(series: int, k: int) -> np.ndarray:
    """Return the stored values (32, 40) of slice k: a disc in air, a little noise."""
    y, x = np.mgrid[:32, :40]
    disc = (y - 16) ** 2 + (x - 20) ** 2 < (10 + k) ** 2
    return (disc * 1000 + np.random.default_rng(series * 100 + k).integers(0, 20, (32, 40))).astype("<u2")


def write_nifti(path: Path, *, seed: int, is_mask: bool = False) -> None:
    """Write a volume of 24 × 20 × 12 voxels of 2 mm, or the label map of its bright cube."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cube = np.zeros((24, 20, 12), np.int16)
    cube[6:14, 5:12, 3:9] = 1
    noise = np.random.default_rng(seed).integers(0, 50, cube.shape)
    values = cube.astype(np.uint8) if is_mask else (cube * 300 + noise).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def write_junk(folder: Path) -> list[str]:
    """Write files that nobody can use beside whatever is there; return their names relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole.dcm"
    write_slice(whole, patient="J", series=77, k=0)
    cut = whole.read_bytes()[:700]
    whole.unlink()
    zero = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes()
    odd = "q\"u'o`te\nline ünïcode 骨"
    junk = {
        "empty.dcm": b"", "truncated.dcm": cut, "bomb.xml": _xml_bomb(), "escape.tar": _tar(), "pixel.png": png(1, 1),
        "huge.png": png(30_000, 30_000), "random.bin": np.random.default_rng(5).bytes(5000),
        "paper.pdf": b"%PDF-1.7\n1 0", "._hidden.png": png(32, 32),
        "zero.nii": zero[:42] + struct.pack("<h", 0) + zero[44:],
        "bomb.nii.gz": _gzip(zero[:352] + bytes(50 << 20), lying=True), "bomb.gz": _gzip(bytes(50 << 20)),
        odd: b"\x00\x01\x02", "n" * 251 + ".png": png(2, 2), "broken.jpg": b"\xff\xd8\xff\xe0" + bytes(60),
        "text.nii.gz": b"not gzip", "open.xml": b"<article><front>",
    }  # fmt: skip
    for name, data in junk.items():
        (folder / name).write_bytes(data)
    names = list(junk)
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to(".")
    return [*names, "loop", "up"]


def png(width: int, height: int) -> bytes:
    """Return an 8-bit grey PNG of any size, black, in as few bytes as deflate allows."""
    squeeze = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    data = b"".join(squeeze.compress(row * min(100, height - y)) for y in range(0, height, 100)) + squeeze.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _xml_bomb() -> bytes:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE article [<!ENTITY e0 "lol">{entities}]><article>&e9;</article>'.encode()


def _tar() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("../../escaped.txt")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"out"))
    return file.getvalue()


def _gzip(data: bytes, *, lying: bool = False) -> bytes:
    if lying:  # declare far more voxels than the stream holds
        data = data[:40] + struct.pack("<8h", 3, 1500, 1200, 900, 1, 1, 1, 1) + data[56:]
    squeeze = zlib.compressobj(9, wbits=31)
    return squeeze.compress(data) + squeeze.flush()


class Quiet:
    """Shows no progress; keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, what: str, pieces: int) -> None:
        self.lines.append(f"{what} {pieces}")

    def piece(self, line: str) -> None:
        self.lines.append(line)

    def end(self) -> None:
        pass


def step(
    out: Path | str, source: Path | None = None, *, ray: str = "none", rebuild: Rebuild | None = None, **settings: str
) -> Step:
    """Return a step into `out`; Spark runs on two cores in this process, the rest here unless `ray` says where."""
    said = settings | ({"source": str(source)} if source else {})
    return Step(str(out), Quiet(), Where("local[2]", ray), said, rebuild or Rebuild())


def build(out: Path | str, recipe: str, source: Path, *, ray: str = "none", **settings: str) -> dict[str, Any]:
    """Run tables, media and examples; return the last manifest."""
    steps.tables(step(out, source, **settings), recipe)
    steps.media(step(out, ray=ray))
    return steps.examples(step(out, ray=ray))


def rest(out: Path | str, *, ray: str = "none", rebuild: Rebuild | None = None) -> dict[str, Any]:
    """Run media and examples of a build whose tables are made; return the last manifest."""
    steps.media(step(out, ray=ray, rebuild=rebuild))
    return steps.examples(step(out, ray=ray))


def copy(folder: Path, to: Path) -> Path:
    """Copy a source or a build with its times."""
    shutil.copytree(folder, to, symlinks=True)
    return to


def facts_of(
    folder: Path | str, *, among: tuple[str, ...] = ("media", "index", "ledger", "examples", "tables", "plan")
) -> dict[str, tuple[int, int]]:
    """Return {path: (mtime_ns, inode)} of every file of these folders of a build: what a rewrite would change."""
    found = [p for name in among for p in sorted((Path(folder) / name).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in found}


def state_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of the build, without its number and parent, which count the runs."""
    return {name: value for name, value in manifest.items() if name not in ("number", "parent")}
