"""Fetching from a real Orthanc by DICOMweb, through a loopback that spoils what passes where a test asks for it."""

import io
import json
import logging
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage
from tests.services.fetches import everything_in, held, kept, killed, reasons, run
from tests.services.loopback import Asked, Loopback, Reply, loopback
from tests.services.orthanc import Orthanc, orthanc

from medloom.connectors.dicomweb import split_parts
from medloom.pipelines.sources.listing import list_objects
from medloom.schemas.errors import ConfigError, Refused, RetryLater
from medloom.schemas.raw import RawZone

ROOT = "1.2.826.0.1.3680043.8.498.77"
# study: (date, {series: (modality, number of objects)})
STUDIES = {
    f"{ROOT}.1": ("20240105", {f"{ROOT}.1.1": ("CT", 5), f"{ROOT}.1.2": ("MR", 3)}),
    f"{ROOT}.2": ("20250620", {f"{ROOT}.2.1": ("CT", 4)}),
}


def an_object(study: str, date: str, series: str, modality: str, number: int) -> bytes:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.StudyDate = study, series, date
    file.PatientID, file.PatientName, file.Modality, file.InstanceNumber = "PID-778", "Planted^Name", modality, number
    file.Rows = file.Columns = 16
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 0, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.ImagePositionPatient, file.ImageOrientationPatient = [0, 0, 2.5 * number], [1, 0, 0, 0, 1, 0]
    file.PixelSpacing, file.RescaleSlope, file.RescaleIntercept = [1, 1], 1, 0
    file.PixelData = np.full((16, 16), number, np.uint16).tobytes()
    written = io.BytesIO()
    file.save_as(written, enforce_file_format=True)
    return written.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Iterator[tuple[Orthanc, dict[str, bytes]]]:
    """A server with both studies, and its objects by SOPInstanceUID."""
    objects = {
        f"{series}.{number}": an_object(study, date, series, modality, number)
        for study, (date, held) in STUDIES.items()
        for series, (modality, count) in held.items()
        for number in range(1, count + 1)
    }
    with orthanc(tmp_path_factory.mktemp("orthanc") / "server") as server:
        for data in objects.values():
            server.upload(data)
        yield server, objects


@pytest.fixture
def served(archive, monkeypatch) -> Iterator[Loopback]:
    """The server behind a loopback, whose address and login the environment names."""
    server, _ = archive

    def pass_on(asked: Asked) -> Reply:
        headers = {name: asked.headers[name] for name in ("accept", "authorization") if name in asked.headers}
        answer = httpx.get(f"{server.url}{asked.raw}", headers=headers, timeout=60)
        names = ("content-type", "etag")
        return Reply(answer.status_code, answer.content, {n: answer.headers[n] for n in names if n in answer.headers})

    with loopback(pass_on) as front:
        monkeypatch.setenv("MEDLOOM_DICOMWEB_URL", f"{front.url}/dicom-web")
        monkeypatch.setenv("MEDLOOM_DICOMWEB_LOGIN", ":".join(server.login))
        yield front


def uids(to: Path) -> set[str]:
    return {name.rpartition("/")[2] for name in kept(to)}


def test_every_object_comes_as_it_is_stored(archive, served, tmp_path):
    _, objects = archive
    done = run("dicomweb", tmp_path / "raw")
    assert (done.asked, done.kept, done.refused) == (12, 12, 0)
    zone = RawZone(str(tmp_path / "raw"))
    for name, row in held(tmp_path / "raw").items():
        there = pydicom.dcmread(io.BytesIO(zone.read(row["digest"])))
        sent = pydicom.dcmread(io.BytesIO(objects[name.rpartition("/")[2]]))
        assert there.PixelData == sent.PixelData
        assert (there.SOPInstanceUID, there.SeriesInstanceUID) == (sent.SOPInstanceUID, sent.SeriesInstanceUID)
    assert list_objects(str(tmp_path / "raw")).num_rows == 12


def test_what_is_there_is_not_asked_for_again(served, tmp_path):
    run("dicomweb", tmp_path / "raw")
    served.seen.clear()
    done = run("dicomweb", tmp_path / "raw")
    assert (done.asked, done.kept, done.known) == (12, 0, 12)
    assert not [asked for asked in served.seen if "multipart" in asked.headers["accept"]]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"modalities": "MR"}, 3),
        ({"since": "20250101"}, 4),
        ({"until": "20241231"}, 8),
        ({"studies": f"{ROOT}.2"}, 4),
        ({"limit": 1, "modalities": "CT"}, None),
    ],
)
def test_only_what_is_wanted_comes(served, tmp_path, settings, count):
    done = run("dicomweb", tmp_path / "raw", **settings)
    assert done.kept == count if count else done.kept in (4, 5)


def test_pages_are_followed_to_their_end(served, tmp_path, monkeypatch):
    monkeypatch.setattr("medloom.connectors.dicomweb.PAGE", 2)
    assert run("dicomweb", tmp_path / "raw").kept == 12
    offsets = [int(asked.query["offset"]) for asked in served.seen if asked.path.endswith(f"{ROOT}.1.1/instances")]
    assert offsets == [0, 2, 4, 5]


def test_a_server_that_caps_its_pages_loses_nothing(served, tmp_path):
    whole = served.answer

    def capped(asked: Asked) -> Reply:
        reply = whole(asked)
        if "json" not in asked.headers["accept"]:
            return reply
        return replace(reply, body=json.dumps(json.loads(reply.body)[:2]).encode())

    served.answer = capped
    assert run("dicomweb", tmp_path / "raw").kept == 12


def test_an_empty_archive_may_answer_without_content(served, tmp_path):
    served.faults = [Reply(204)]
    assert run("dicomweb", tmp_path / "raw", since="20300101").asked == 0


def test_faults_of_the_way_are_retried(served, tmp_path):
    path = f"/dicom-web/studies/{ROOT}.2/series/{ROOT}.2.1"
    served.faults = [Reply(503)]
    served.faults_of = {path: [lambda reply: replace(reply, cut=900), Reply(500)]}
    run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2")
    assert run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2").asked == 4
    assert len(uids(tmp_path / "raw")) == 4


def test_a_series_that_does_not_come_whole_comes_object_by_object(served, tmp_path):
    path = f"/dicom-web/studies/{ROOT}.2/series/{ROOT}.2.1"
    served.faults_of = {path: [lambda reply: replace(reply, body=reply.body[:1500])]}
    done = run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2")
    assert (done.kept, done.refused) == (4, 0)


def test_an_object_that_the_server_will_not_give_is_refused_by_name(served, tmp_path):
    lost = f"{ROOT}.2.1.3"
    whole = served.answer

    def forgetful(asked: Asked) -> Reply:
        if "multipart" in asked.headers["accept"] and not asked.path.rpartition("/")[2].startswith(f"{ROOT}.2.1."):
            return Reply(404)
        return Reply(404) if asked.path.endswith(lost) else whole(asked)

    served.answer = forgetful
    done = run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2")
    assert (done.asked, done.kept, done.refused) == (4, 3, 1)
    assert list(reasons(tmp_path / "raw").values()) == ["http.not_found"]
    served.answer = whole
    assert run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2").refused == 1
    assert run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2", refresh=True).kept == 1


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on(served, tmp_path):
    killed("dicomweb", tmp_path / "raw", served, 5)
    done = run("dicomweb", tmp_path / "raw")
    assert done.asked == 12
    assert len(uids(tmp_path / "raw")) == 12
    assert held(tmp_path / "raw").keys() == (run("dicomweb", tmp_path / "other"), held(tmp_path / "other"))[1].keys()


def test_a_wrong_login_says_what_to_set(served, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOM_DICOMWEB_LOGIN", "medloom:wrong")
    with pytest.raises(ConfigError, match="MEDLOOM_DICOMWEB_TOKEN"):
        run("dicomweb", tmp_path / "raw")


def test_without_an_address_it_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDLOOM_DICOMWEB_URL", raising=False)
    with pytest.raises(ConfigError, match="MEDLOOM_DICOMWEB_URL is not set"):
        run("dicomweb", tmp_path / "raw")


def test_no_log_no_error_and_no_column_but_the_name_tells_an_examination(served, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    served.faults_of = {f"/dicom-web/studies/{ROOT}.2/series": [Reply(503), Reply(503)]}
    with pytest.raises(RetryLater) as raised:
        run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2")
    run("dicomweb", tmp_path / "raw")
    rows = RawZone(str(tmp_path / "raw")).rows().to_pylist()
    assert ROOT not in str(raised.value)
    assert ROOT not in caplog.text
    assert not [row for row in rows if ROOT in row["url"] + row["detail"]]
    assert b"only-for-tests" not in everything_in(tmp_path / "raw")
    assert "only-for-tests" not in caplog.text


def test_only_the_owner_may_open_the_zone(served, tmp_path):
    run("dicomweb", tmp_path / "raw", studies=f"{ROOT}.2")
    assert stat.S_IMODE((tmp_path / "raw").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/dicom", b"--b\r\n\r\nx\r\n--b--"),
        ("multipart/related; boundary=b", b""),
        ("multipart/related; boundary=b", b"no boundary at all"),
        ("multipart/related; boundary=b", b"--b\r\n\r\nfirst\r\n--b\r\n\r\nsecond"),
        ("multipart/related; boundary=b", b"--b\r\nno end of its header"),
        ("multipart/related", b"--b\r\n\r\nx\r\n--b--"),
    ],
)
def test_a_body_that_is_not_whole_is_refused(tmp_path, kind, body):
    (tmp_path / "body").write_bytes(body)
    with pytest.raises(Refused, match="multipart"):
        split_parts(tmp_path / "body", kind, tmp_path)


def test_parts_come_byte_by_byte_whatever_they_hold(tmp_path):
    parts = [b"", b"\r\n", b"--", b"\r\n--", b"\x00" * 9, b"\r\n\r\n"]
    body = b"preamble\r\n" + b"".join(b"--b 1\r\nContent-Type: x\r\n\r\n" + part + b"\r\n" for part in parts)
    (tmp_path / "body").write_bytes(body + b"--b 1--\r\nepilogue")
    files = split_parts(tmp_path / "body", 'multipart/related; type="application/dicom"; boundary="b 1"', tmp_path)
    assert [path.read_bytes() for path in files] == parts
