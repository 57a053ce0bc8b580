"""Names in headers, metadata, paths and pixels of scans: none is left in build, inspect, export, report and failure.

Searched are the bytes of every file outside private/, and what is squeezed in them: columns of Parquet, metadata of
images, voxels of blosc2, members of tars, pictures of the report; and what the commands print. Pictures that were kept
are read again by the reader that covered them, and without it: where a line was drawn, ink and ground are alike now.
"""

import base64
import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests import sources

from medloom.connectors.ocr import text_boxes
from medloom.pipelines import steps
from medloom.pipelines.export import export
from medloom.schemas.build import Build
from medloom.schemas.errors import BugError
from medloom.schemas.store import Store

pytest.importorskip("rapidocr", reason="needs the extra medloom[deid]")
pytestmark = pytest.mark.slow

KEY = "0123456789abcdef" * 4
LINES = ("ZORBLAX^IRMA", "MRN 7316494", "1901-02-03")  # burned into pixels; the words stand in headers as well
IN_PATHS = "wobbleton"  # in names of files and folders alone: `inspect` shows a user's own paths
PLANTED = re.compile(rb"zorblax|irma\b|7316494|1901.?02.?03|19010203|wobbleton", re.IGNORECASE)
NAMED = re.compile(rb"zorblax|irma\b|7316494|1901.?02.?03|19010203", re.IGNORECASE)
UID = "1.2.826.0.1.3680043.8.498.7316494"
SECONDARY, ULTRASOUND = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.1"
BOMB = """
from dataclasses import dataclass
@dataclass(frozen=True)
class Bomb:
    version: str = "1"
    def __call__(self, medium):
        raise ValueError("ZORBLAX^IRMA 7316494 " + medium.key)
        yield medium
"""


def picture(height: int, width: int, *, named: bool = True) -> np.ndarray:
    """A synthetic scan (Y, X): a bright ellipse in noise, the three lines burned in, a marker R that may stay."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    shade = np.clip(1.2 - (x / 0.7) ** 2 - (y / 0.8) ** 2, 0, 1) * 150
    image = Image.fromarray((shade + np.random.default_rng(height).integers(0, 12, shade.shape)).astype(np.uint8))
    if named:
        for (top, left), line in zip(_places(height, width), LINES, strict=True):
            ImageDraw.Draw(image).text((left, top), line, font=ImageFont.load_default(16), fill=255)
    ImageDraw.Draw(image).text((width - 22, height - 26), "R", font=ImageFont.load_default(18), fill=240)
    return np.asarray(image)


def _places(height: int, width: int) -> list[tuple[int, int]]:
    return [(2, 2), (height // 2, width // 4), (height - 24, 4)]


def write_object(path: Path, number: int, pixels_YX: np.ndarray, k: int = 0, **elements: object) -> None:
    """Write one object with the plant in its header, of 8-bit pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels_YX.shape
    facts = {
        "SOPInstanceUID": f"{UID}.{number}.{k}.1", "SeriesInstanceUID": f"{UID}.{number}", "PatientName": LINES[0],
        "StudyInstanceUID": f"{UID}.{number}.9", "PatientBirthDate": "19010203", "StudyDate": "19010203",
        "AccessionNumber": "7316494", "StudyDescription": f"follow-up of {LINES[0]}", "SeriesDescription": LINES[0],
        "InstitutionName": LINES[0], "ImageComments": f"{LINES[0]} {LINES[2]}", "Rows": height, "Columns": width,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": 0, "PixelData": pixels_YX.tobytes(),
    } | elements  # fmt: skip
    sources.write_slice(path, patient="7316494", series=number, k=k, **facts)
    import pydicom

    data = pydicom.dcmread(path)
    data.PixelData = pixels_YX.tobytes()
    data.save_as(path)


def write_planted(folder: Path) -> None:
    """Write scans of every kind that pixels can name somebody in."""
    flat = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "PixelSpacing": None}
    us = {"Modality": "US", "SOPClassUID": ULTRASOUND, **flat}
    write_object(folder / "us" / f"{IN_PATHS}.dcm", 1, picture(240, 320), **us)
    write_object(folder / "us2" / "b.dcm", 2, picture(300, 420), BurnedInAnnotation="YES", **us)
    write_object(folder / "dx" / "a.dcm", 3, picture(500, 400), Modality="DX", PhotometricInterpretation="MONOCHROME1")
    plain = picture(200, 210, named=False)
    write_object(folder / "said" / "a.dcm", 4, plain, BurnedInAnnotation="YES", **us)
    saved = {"Modality": "OT", "SOPClassUID": SECONDARY, **flat}
    write_object(folder / "screen" / "a.dcm", 5, picture(220, 330), **saved)
    write_object(folder / "dose" / "a.dcm", 6, picture(230, 330), SeriesDescription="Dose Report", **saved)
    for k in range(3):
        drawn = ["DERIVED", "SECONDARY", "MPR"]
        write_object(folder / "mpr" / f"{k}.dcm", 7, picture(240, 260), k, ImageType=drawn, SeriesDescription="mpr")
        write_object(folder / "head" / f"{k}.dcm", 8, picture(90, 90, named=False), k, BodyPartExamined="HEAD")
    exif = Image.Exif()
    exif[0x013B], exif[0x9003] = LINES[0], "1901:02:03 04:05:06"
    for name, options in (("a.jpg", {"exif": exif, "comment": LINES[0].encode(), "quality": 92}), ("b.png", {})):
        path = folder / f"{IN_PATHS}-19010203" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture(260 + len(options), 340)).convert("RGB").save(path, **options)
    volume = nibabel.Nifti1Image(np.arange(8 * 70 * 66, dtype=np.int16).reshape(70, 66, 8), np.eye(4))
    volume.header["descrip"] = LINES[0].encode()
    nibabel.save(volume, folder / f"{LINES[0]}.nii.gz")
    (folder / f"{IN_PATHS}.dcm").write_bytes((folder / "us2" / "b.dcm").read_bytes()[:1500])
    (folder / f"{LINES[0]}.txt").write_text(f"{LINES}")


@dataclass(frozen=True)
class Planted:
    source: Path
    out: Path
    said: str

    def run(self, *words: str) -> str:
        """Run a command; return all that it prints, without the folders that the user named."""
        said = command(*words)
        return said.replace(str(self.source), "").replace(str(self.out), "")


def command(*words: str) -> str:
    environment = os.environ | {"MEDLOOM_IDENTITY_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "medloom", *words], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The planted scans, built and reported by the command line with the recipe `scans`."""
    folder = tmp_path_factory.mktemp("hunt")
    source, out = folder / "root", folder / "out"
    source.mkdir()
    write_planted(source)
    settings = (f"source={source}", "terms=cc0-1.0", "shard_bytes=200000")
    sets = [word for setting in settings for word in ("--set", setting)]
    built = command(
        "--verbose", "build", "scans", "--to", str(out), *sets, "--ray-address", "none", "--spark-master", "local[2]"
    )
    return Planted(source, out, built + command("report", str(out)))


def pieces(name: str, data: bytes) -> Iterator[bytes]:
    """The bytes of a file and all that is squeezed in it."""
    yield data
    if name.endswith(".parquet"):
        yield repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
        yield repr(pq.read_schema(io.BytesIO(data)).metadata).encode()
    elif name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar.getmembers():
                yield repr(member.get_info()).encode()
                yield from pieces(member.name, tar.extractfile(member).read())
    elif name.endswith(".b2nd"):
        import blosc2

        array = blosc2.ndarray_from_cframe(data)
        yield array[:].tobytes()
        yield repr(dict(array.schunk.vlmeta[:])).encode()
    elif name.endswith((".jpg", ".png")):
        with Image.open(io.BytesIO(data)) as image:
            yield repr((image.info, image.getexif())).encode()
    elif name.endswith(".gz"):
        import gzip

        yield gzip.decompress(data)
    elif name.endswith(".html"):
        for found in re.finditer(rb"data:image/(\w+);base64,([\w+/=]+)", data):
            yield from pieces("a.png", base64.b64decode(found[2]))


def found_in(folder: Path) -> list[tuple[str, bytes]]:
    """Return where a plant stands in the files of a folder, but for its private ones."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.relative_to(folder).parts[0] != "private"]
    assert files
    return [
        (str(path.relative_to(folder)), match[0])
        for path in files
        for piece in [*pieces(path.name, path.read_bytes()), str(path.relative_to(folder)).encode()]
        if (match := PLANTED.search(piece))
    ]


def kept_pictures(out: Path) -> dict[str, np.ndarray]:
    """The pictures of all tars by member, and the thumbnails of volumes, (Y, X, C)."""
    found = {}
    for path in sorted((out / "media").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith((".jpg", ".png")):
                    image = Image.open(tar.extractfile(member))
                    found[member.name] = np.atleast_3d(np.asarray(image.convert("RGB") if image.mode != "L" else image))
    return found


def test_the_plants_are_there_and_each_kind_met_its_rule(planted: Planted):
    links = planted.out / "private" / "links" / "part-00000.parquet"
    assert any(NAMED.search(piece) for piece in pieces(links.name, links.read_bytes()))
    assert all(PLANTED.search(p.read_bytes() + p.name.encode()) or p.suffix in (".gz", ".png") for p in _files(planted))
    read = [box.text for box in text_boxes(np.atleast_3d(picture(240, 320)))]
    assert all(any(line in text for text in read) for line in LINES)  # the reader can read what it must cover
    build = Build(str(planted.out))
    refused = {row["reason"] for row in build.refusals()}
    assert refused >= {"pixels.stated_text", "dicom.screen_capture", "dicom.dose_report", "pixels.text"}
    rows = [row for row in build.index().to_pylist() if row["field"] in ("png", "jpg", "ct.b2nd")]
    covered = {row["measured"][i]["value"] for row in rows for i in range(len(row["measured"]))
               if row["field"] == "png" and row["measured"][i]["name"] == "text_boxes"}  # fmt: skip
    assert sum(row["field"] == "png" for row in rows) == 5
    assert min(covered) >= 3
    assert sorted(row["face"] for row in rows if row["field"] == "ct.b2nd") == ["", "possible"]


def _files(planted: Planted) -> list[Path]:
    return [path for path in planted.source.rglob("*") if path.is_file()]


def test_nothing_planted_is_left_in_the_build_and_its_report(planted: Planted):
    assert found_in(planted.out) == []
    assert not PLANTED.search(planted.said.replace(str(planted.source), "").encode())


def test_no_picture_that_is_kept_names_anybody(planted: Planted):
    pictures = kept_pictures(planted.out)
    assert len(pictures) == 7
    for name, pixels_YXC in pictures.items():
        read = " ".join(box.text for box in text_boxes(pixels_YXC))
        assert not re.search(r"zorb|irma|mrn|7316|1901|02-03", read, re.IGNORECASE), name
        size = 2 * pixels_YXC.shape[1], 2 * pixels_YXC.shape[0]  # nor does a reader that looks closer
        closer = np.atleast_3d(np.asarray(Image.fromarray(pixels_YXC.squeeze()).resize(size)))
        seen = " ".join(box.text for box in text_boxes(closer) if len(box.text) > 2)
        assert not re.search(r"zorb|irma|mrn|7316|1901|02-03", seen, re.IGNORECASE), name


def test_where_a_name_was_drawn_ink_and_ground_are_alike(planted: Planted):
    sizes = set()
    for name, pixels_YXC in kept_pictures(planted.out).items():
        if not name.endswith(".png"):
            continue
        height, width = pixels_YXC.shape[:2]
        sizes.add((height, width))
        drawn, plain = picture(height, width).astype(int), picture(height, width, named=False).astype(int)
        for top, left in _places(height, width):
            box = slice(top, top + 18), slice(left, left + 120)
            ink = (drawn - plain)[box] > 60
            assert drawn[box][ink].mean() - drawn[box][~ink].mean() > 60  # as it was
            kept = pixels_YXC[:, :, 0].astype(int)[box]
            assert abs(kept[ink].mean() - kept[~ink].mean()) < 15, (name, top)
    assert sizes == {(240, 320), (300, 420), (500, 400), (263, 340), (260, 340)}


def test_the_report_counts_what_was_done(planted: Planted):
    page = (planted.out / "report" / "report.html").read_text()
    section = re.search(r'<section id="identity".*?</section>', page, re.DOTALL)
    assert section
    rows = dict(re.findall(r'<td class="n">(\d+)</td><td>([^<]+)</td>', section[0]) and [
        (what, int(n)) for n, what in re.findall(r'<td class="n">(\d+)</td><td>([^<]+)</td>', section[0])
    ])  # fmt: skip
    assert rows["images with text covered"] == 5
    assert rows["refused for text"] == 2
    assert rows["captures refused"] == 2
    assert rows["volumes, face possible"] == 1


def test_inspect_shows_paths_and_no_name(planted: Planted):
    said = planted.run("inspect", str(planted.source), "--json")
    assert IN_PATHS in said
    names = re.escape(f"{LINES[0]}.nii.gz"), re.escape(f"{LINES[0]}.txt"), f"{IN_PATHS}-19010203"
    assert not NAMED.search(re.sub("|".join(names), "", said).encode())  # but in names of files, which are the user's


@pytest.mark.parametrize("form", ["nifti", "m3d", "radfm"])
def test_what_is_exported_names_nobody(planted: Planted, tmp_path: Path, form: str):
    done = export(form, str(planted.out), str(tmp_path / "gone"))
    assert done["counts"]["media"]["written"]
    assert found_in(tmp_path / "gone") == []


def test_a_failing_build_names_nobody(
    planted: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    monkeypatch.setenv("MEDLOOM_IDENTITY_KEY", KEY)
    recipe = sources.write_recipe(tmp_path / "bomb.py", extra=BOMB, sources="(scans,)", stages="(Bomb(), Measure())")
    scans = sources.copy(planted.source / "head", tmp_path / "root" / "scans" / IN_PATHS)
    (scans / "cut.dcm").write_bytes((scans / "0.dcm").read_bytes()[:900])
    out = tmp_path / "out"
    caplog.set_level("DEBUG", logger="medloom")
    steps.tables(sources.step(out, tmp_path / "root", deidentify="on"), recipe)
    with pytest.raises(BugError, match=r"stage Bomb") as fault:
        steps.media(sources.step(out))
    said = f"{fault.getrepr(style='value')} {capfd.readouterr()} {caplog.text}".replace(str(tmp_path), "")
    assert not PLANTED.search(said.encode())
    assert found_in(out) == []
    assert not Build(str(out)).manifest()["counts"]["media"]
    assert not Store(str(out)).names("media")
