"""The identity boundary: nothing that was planted in headers, metadata and names is under OUT, but in private/."""

import gzip
import hashlib
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests import sources

from medloom.pipelines import steps
from medloom.pipelines.tables.known import read_links
from medloom.schemas.build import Build
from medloom.schemas.errors import ConfigError
from medloom.schemas.store import Store

PLANT = "QZXJV"  # in every text, name and path
DATE = "19010203"
UID = "1.2.826.0.1.3680043.8.498.7316494"  # every UID begins so
KEYS = ("0123456789abcdef" * 4, "fedcba9876543210" * 4)
PLANTED = re.compile(rb"qzxjv|19010203|7316494|1901-02-03", re.IGNORECASE)
FORMATS = [*["dicom"] * 3, "gif", "jpg", "nifti", "nifti.gz", "png", "tiff"]  # what becomes a unit
TEXT = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
NEEDED = {  # what decides pixels or place; PatientID and the UIDs are set apart
    "Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "VOILUTFunction", "RescaleType",
    "PixelDataProviderURL", "BodyPartExamined", "LossyImageCompression", "Units",
}  # fmt: skip


def planted_elements(number: int) -> dict[str, object]:
    """A value for every public element that can hold text, a date, a time or a UID, each with the plant in it."""
    values: dict[str, object] = {}
    for tag, (kind, multiplicity, _, retired, keyword) in DicomDictionary.items():
        if not keyword or keyword in NEEDED or tag < 0x00080000 or tag >> 16 in (0x0028, 0x7FE0) or retired:
            continue
        if kind in TEXT and multiplicity in ("1", "1-n"):
            values[keyword] = f"{PLANT}{tag:08X}"
        elif kind in ("DA", "DT") and multiplicity == "1":
            values[keyword] = DATE
        elif kind == "UI" and multiplicity == "1" and keyword != "SOPClassUID":
            values[keyword] = f"{UID}.{tag}"
    values |= {"PatientID": f"{PLANT}-{number}", "SeriesInstanceUID": f"{UID}.{number}", "PatientName": f"{PLANT}^Jane"}
    values |= {"StudyInstanceUID": f"{UID}.{number}.1", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", PLANT]}
    return values


def write_planted(folder: Path) -> None:
    """Write scans of every kind that we read, with the plant wherever the format has room for text."""
    folder.mkdir(parents=True)
    for number, modality in ((1, "CT"), (2, "CT"), (3, "US")):
        for k in range(4 if modality == "CT" else 1):
            path = folder / f"{PLANT}^patient{number}" / f"{DATE}" / f"{PLANT}-{k}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            elements = planted_elements(number) | {"SOPInstanceUID": f"{UID}.{number}.2.{k}", "Modality": modality}
            sources.write_slice(path, patient="", series=number, k=k, **elements)
            _plant_beyond_keywords(path)
    _write_nifti(folder / f"{PLANT}-brain" / f"{PLANT}.nii.gz")
    pictures = {".jpg": _jpeg(), ".png": _png(), ".tif": _saved("TIFF"), ".gif": _saved("GIF")}
    for ending, data in pictures.items():
        (folder / f"{PLANT}-{DATE}{ending}").write_bytes(data)
    (folder / f"{PLANT}-truncated.dcm").write_bytes(next(folder.rglob("*.dcm")).read_bytes()[:3000])
    (folder / f"{PLANT}.pdf").write_bytes(b"%PDF-1.7 " + PLANT.encode())
    (folder / f"{PLANT}-empty.dcm").write_bytes(b"")
    (folder / f"{PLANT}-bad.nii").write_bytes(nibabel.load(next(folder.rglob("*.nii.gz"))).to_bytes()[:900])


def _plant_beyond_keywords(path: Path) -> None:
    """Add the plant in private elements, nested sequences, unknown tags, the file meta group and the preamble."""
    data = pydicom.dcmread(path)
    block = data.private_block(0x0011, f"{PLANT} creator", create=True)
    block.add_new(0x01, "LO", PLANT)
    block.add_new(0x02, "UN", PLANT.encode())
    inner = Dataset()
    inner.RequestedProcedureDescription, inner.StudyDate = PLANT, DATE
    outer = Dataset()
    outer.ScheduledProcedureStepDescription, outer.ReferencedStudySequence = PLANT, Sequence([inner])
    data.RequestAttributesSequence = Sequence([outer])
    data.file_meta.SourceApplicationEntityTitle = PLANT
    data.file_meta.PrivateInformationCreatorUID = f"{UID}.9"
    data.file_meta.PrivateInformation = PLANT.encode() * 2
    data.preamble = (PLANT.encode() * 30)[:128]
    data.save_as(path)
    path.write_bytes(path.read_bytes())


def _write_nifti(path: Path) -> None:
    path.parent.mkdir()
    image = nibabel.Nifti1Image(np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10), np.diag([2, 2, 2, 1.0]))
    for name in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[name] = f"{PLANT} {DATE}".encode()[: image.header[name].dtype.itemsize]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, f"{PLANT} comment".encode()))
    with open(path, "wb") as file, gzip.GzipFile(f"{PLANT}.nii", "wb", fileobj=file, mtime=0) as squeezed:
        squeezed.write(image.to_bytes())


def _jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x9003] = f"{PLANT} description", f"{PLANT} artist", "1901:02:03 04:05:06"
    data = sources.picture_bytes(11, "jpg", size=64, exif=exif, comment=f"{PLANT} comment".encode())
    xmp, iptc = (
        b"http://ns.adobe.com/xap/1.0/\0<x>QZXJV</x>",
        b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x0a\x1c\x02\x50\0\x05QZXJV",
    )
    segments = b"".join(
        b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body
        for marker, body in ((0xE1, xmp), (0xED, iptc), (0xEF, PLANT.encode()), (0xFE, PLANT.encode()))
    )
    return data[:2] + segments + data[2:] + PLANT.encode()


def _png() -> bytes:
    data = sources.picture_bytes(12, "png", size=64)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    plant = PLANT.encode()
    texts = chunk(b"tEXt", b"Author\0" + plant) + chunk(b"zTXt", b"Title\0\0" + zlib.compress(plant))
    texts += chunk(b"iTXt", b"Comment\0\0\0\0\0" + plant) + chunk(b"eXIf", b"MM\0*" + plant) + chunk(b"prVt", plant)
    return data[:33] + texts + data[33:] + plant


def _saved(format_: str) -> bytes:
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(sources.picture_bytes(13, "png", size=64)))
    if format_ == "TIFF":
        picture.save(file, "TIFF", description=f"{PLANT} description", artist=PLANT, datetime="1901:02:03 04:05:06")
    else:
        picture.convert("P").save(file, "GIF", comment=PLANT.encode())
    return file.getvalue()


@dataclass(frozen=True)
class Planted:
    source: Path
    out: Path
    recipe: str
    shown: str


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The planted scans built by the command line with the first key, and all that it printed."""
    folder = tmp_path_factory.mktemp("identity")
    source, out = folder / f"{PLANT}-root", folder / "out"
    write_planted(source / "scans")
    recipe = sources.write_recipe(folder / "scans.py", sources="(scans,)")
    environment = os.environ | {"MEDLOOM_IDENTITY_KEY": KEYS[0]}
    command = [
        sys.executable, "-m", "medloom", "--verbose", "build", recipe, "--to", str(out), "--set", f"source={source}",
        "--set", "deidentify=on", "--ray-address", "none", "--spark-master", "local[2]",
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert "keeps none of its" in done.stderr, done.stderr  # images so small and of no stated terms are withheld
    return Planted(source, out, recipe, done.stdout + done.stderr)


def pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is squeezed in it: columns of Parquet, text chunks of PNG, gzip."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path).to_pylist()).encode()
        yield repr(pq.read_schema(path).metadata).encode()
    for start in re.finditer(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff", data):
        try:
            with Image.open(io.BytesIO(data[start.start() :])) as picture:
                yield repr((picture.info, picture.getexif())).encode()
        except OSError:
            continue


def public_files(out: Path) -> list[Path]:
    return [p for p in sorted(out.rglob("*")) if p.is_file() and p.relative_to(out).parts[0] != "private"]


def test_the_scans_were_built_and_the_search_finds_what_is_there(planted: Planted):
    build = Build(str(planted.out))
    assert sorted(build.table("series")["format"].to_pylist()) == sorted(FORMATS)
    media = build.manifest()["counts"]["media"]
    assert media["volume"] == 3  # two CT series and the NIfTI
    assert media["png"] >= 3
    links = planted.out / "private" / "links" / "part-00000.parquet"
    assert any(PLANTED.search(piece) for piece in pieces(links))
    source_files = [p for p in planted.source.rglob("*") if p.is_file() and p.stat().st_size]
    assert all(any(PLANTED.search(piece) for piece in [*pieces(p), p.name.encode()]) for p in source_files)


def test_nothing_planted_is_under_out_but_in_private(planted: Planted):
    found = [
        (str(path.relative_to(planted.out)), match[0])
        for path in public_files(planted.out)
        for piece in [*pieces(path), str(path.relative_to(planted.out)).encode()]
        if (match := PLANTED.search(piece))
    ]
    assert found == []


def test_no_plain_digest_path_or_key_is_under_out(planted: Planted):
    secret = [KEYS[0].encode()]
    for path in planted.source.rglob("*"):
        if path.is_file() and path.stat().st_size:
            for kind in ("sha256", "md5", "sha1"):
                secret.append(hashlib.new(kind, path.read_bytes()).hexdigest().encode())
    for k in range(4):  # pixels as stored, of a slice that anybody could guess
        secret.append(hashlib.sha256(sources.ct_slice(1, k).tobytes()).hexdigest().encode())
    secret.append(str(planted.source).encode())
    for path in public_files(planted.out):
        for piece in pieces(path):
            assert not any(text in piece for text in secret), path
    for path in (planted.out / "private").rglob("*"):
        assert path.is_dir() or KEYS[0].encode() not in path.read_bytes()


def test_private_is_for_its_owner_alone(planted: Planted):
    assert (planted.out / "private").stat().st_mode & 0o777 == 0o700
    assert not [name for name in Build(str(planted.out)).manifest()["files"] if name.startswith("private")]


def test_nothing_planted_is_told_even_verbosely(planted: Planted):
    said = planted.shown.replace(str(planted.source), "")  # the folder that the user named is the user's own
    assert "train-" in said
    assert not PLANTED.search(said.encode())


def test_units_are_tokens_and_their_key_is_named(planted: Planted):
    series = Build(str(planted.out)).table("series").to_pylist()
    assert all(re.fullmatch("[a-z2-7]{16}", row["unit"]) for row in series)
    assert {len(row["key_id"]) for row in series} == {8}
    for link in read_links(Store(str(planted.out))).to_pylist():
        assert re.fullmatch("[a-z2-7]{16}", link["unit"])


def test_without_a_key_nothing_is_written_and_it_is_explained(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MEDLOOM_IDENTITY_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"MEDLOOM_IDENTITY_KEY is not set.*deidentify=off"):
        steps.tables(sources.step(tmp_path / "out", planted.source, deidentify="on"), planted.recipe)
    assert not (tmp_path / "out").exists()
    before = sources.facts_of(planted.out)
    with pytest.raises(ConfigError, match="MEDLOOM_IDENTITY_KEY"):
        steps.media(sources.step(planted.out))
    assert sources.facts_of(planted.out) == before


def test_the_same_key_gives_the_same_tokens_and_another_key_others(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", KEYS[0])
    same = sources.build(tmp_path / "same", planted.recipe, planted.source, deidentify="on")
    assert same["files"] == Build(str(planted.out)).manifest()["files"]
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", KEYS[1])
    sources.build(tmp_path / "other", planted.recipe, planted.source, deidentify="on")

    def tokens(out: Path) -> set[str]:
        index = Build(str(out)).index(columns=["unit", "group", "digest", "pixel_digest"]).to_pylist()
        return {value for row in index for value in row.values()}

    assert len(tokens(tmp_path / "same")) > 20
    assert not tokens(tmp_path / "same") & tokens(tmp_path / "other")


def test_a_build_goes_on_only_with_its_own_key(planted: Planted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", KEYS[1])
    for run in (
        lambda: steps.tables(sources.step(planted.out, planted.source, deidentify="on"), planted.recipe),
        lambda: steps.tables(sources.step(planted.out, planted.source, deidentify="off"), planted.recipe),
        lambda: steps.media(sources.step(planted.out)),
    ):
        with pytest.raises(ConfigError, match="one patient would become two") as fault:
            run()
        assert KEYS[1] not in str(fault.value)
