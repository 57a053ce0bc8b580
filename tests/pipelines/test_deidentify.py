"""The command `deidentify` as its users meet it: a folder in, a folder out that tells nobody."""

import csv
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from tests.connectors.deid_objects import ROOT, ct, save, study

from medloom.__main__ import main
from medloom.connectors.ocr import text_boxes
from medloom.connectors.settings import IDENTITY_KEY
from medloom.pipelines.stages.burned_in import writing
from medloom.schemas.keys import Identity

SECRET = "0123456789abcdef" * 4
PLANTED = ("zebedee", "quentin", "foxtrot", "quizzical", "p4711", "acc-90210", "20150412", "2015-04-12", ROOT)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Run a command in this process with a secret: (exit status, standard output, standard error)."""
    monkeypatch.setenv(IDENTITY_KEY, SECRET)

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """Two patients: a CT with SEG and SR, and one whose capture, report, directory and broken files must stay out."""
    folder = tmp_path_factory.mktemp("scans")
    study(folder / "Zebedee^Quentin")
    other = folder / "escaped_ward 4711"
    save(ct(patient="P4712"), other / "ct.dcm")
    capture = ct(patient="P4712", number=2)
    capture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    save(capture, other / "P4712.dcm")
    save(ct(patient="P4712"), other / "again.dcm")
    (other / "cut.dcm").write_bytes((other / "ct.dcm").read_bytes()[:-100])
    (other / "Zebedee.txt").write_text("Zebedee")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_object_is_written_or_refused_and_counted(cli, scans, tmp_path):
    status, out, err = cli("deidentify", scans, tmp_path / "out", "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["objects"] == {"in": 10, "out": 6, "refused": 4}
    assert report["reasons"] == {"deid.duplicate": 1, "deid.pixels": 1, "deid.truncated": 1, "dicom.not_dicom": 1}
    assert all(re.fullmatch(r"[a-z2-7]{16}", row["object"]) for row in report["refused"])
    written = files(tmp_path / "out")
    assert len(written) == 6
    assert all(re.fullmatch(r"[a-z2-7]{16}/[a-z2-7]{16}\.dcm", name) for name in written)
    rows = {row["action"]: (row["right"], row["required"]) for row in report["scorecard"]}
    assert list(rows) == [
        "tag_retained", "text_notnull", "text_retained", "text_removed", "date_shifted", "uid_changed",
        "pixels_hidden", "pixels_retained", "uid_consistent", "patid_consistent",
    ]  # fmt: skip
    assert all(right == required > 0 for right, required in rows.values()), rows
    assert "no proof of anonymity" in report["note"]


def test_nothing_of_the_originals_is_left_or_told(cli, scans, tmp_path):
    told = ""
    for more in ((), ("--json",), ("--profile", "basic")):
        status, out, err = cli("deidentify", scans, tmp_path / f"out{len(told)}", *more)
        assert status == 0
        told += out + err
    told = told.replace(str(scans), "").replace(str(tmp_path), "").lower()
    assert not [word for word in PLANTED if word.lower() in told]
    for folder in tmp_path.iterdir():
        for name, data in files(folder).items():
            header = data[: data.rfind(b"\xe0\x7f\x10\x00")].lower() if b"\xe0\x7f\x10\x00" in data else data.lower()
            assert not [word for word in PLANTED if word.encode().lower() in header + name.encode()]


def test_people_are_told_the_counts_the_card_and_its_limits(cli, scans, tmp_path):
    status, out, err = cli("deidentify", scans, tmp_path / "out")
    assert status == 0
    assert "10 objects: 6 written, 4 refused; profile research" in out
    assert "1 deid.duplicate" in out
    assert re.search(r"^uid_consistent +(\d+) +\1$", out, re.M)
    assert out.splitlines()[-1].endswith("it is no proof of anonymity.")
    assert re.search(r"^deidentify: 1 done in [\d.]+ s$", err, re.M)


def test_the_same_secret_gives_the_same_bytes_and_another_gives_others(cli, scans, tmp_path, monkeypatch):
    assert cli("deidentify", scans, tmp_path / "one")[0] == 0
    (tmp_path / "two").mkdir()
    assert cli("deidentify", scans, tmp_path / "two")[0] == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    monkeypatch.setenv(IDENTITY_KEY, SECRET[::-1])
    assert cli("deidentify", scans, tmp_path / "three")[0] == 0
    assert not set(files(tmp_path / "one")) & set(files(tmp_path / "three"))


def test_the_child_never_holds_the_secret_of_the_project(cli, scans, tmp_path):
    """Tokens of the project's own secret, which builds give, do not occur."""
    assert cli("deidentify", scans, tmp_path / "out")[0] == 0
    of_the_project = Identity(SECRET.encode()).token("object", ct().SOPInstanceUID)
    assert not [name for name in files(tmp_path / "out") if of_the_project in name]


def test_links_are_written_on_request_and_for_the_owner_only(cli, scans, tmp_path):
    assert cli("deidentify", scans, tmp_path / "out", "--links", tmp_path / "links.csv")[0] == 0
    assert os.stat(tmp_path / "links.csv").st_mode & 0o777 == 0o600
    with open(tmp_path / "links.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    kept = [row for row in rows if row["file"]]
    assert {row["file"] for row in kept} == set(files(tmp_path / "out"))
    for row in kept:
        assert pydicom.dcmread(scans / row["original"]).SOPInstanceUID == row["original_uid"]
    assert {row["reason"] for row in rows if not row["file"]} >= {"deid.pixels", "dicom.not_dicom"}
    status, _, err = cli("deidentify", scans, tmp_path / "other", "--links", tmp_path / "links.csv")
    assert (status, "it exists already" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_pixels_that_may_show_text_are_kept_on_request(cli, scans, tmp_path):
    status, out, _ = cli("deidentify", scans, tmp_path / "out", "--pixels", "keep", "--json")
    report = json.loads(out)
    assert (status, report["objects"]["out"]) == (0, 7)
    hidden = next(row for row in report["scorecard"] if row["action"] == "pixels_hidden")
    assert (hidden["right"], hidden["required"]) == (0, 1)


def test_a_single_file_is_a_source(cli, scans, tmp_path):
    status, out, _ = cli("deidentify", next(scans.rglob("ct1.dcm")), tmp_path / "out", "--json")
    assert (status, json.loads(out)["objects"]) == (0, {"in": 1, "out": 1, "refused": 0})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("MISSING", "NEW"), "no such file or folder"),
        (("SRC", "FULL"), "it is not empty"),
        (("SRC", "SRC/inside"), "lie inside one another"),
        (("SRC", "NEW", "--links", "NEW/links.csv"), "lies inside"),
        (("SRC", "NEW", "--profile", "anonymous"), "known are basic, research"),
        (("SRC", "NEW", "--pixels", "blur"), "none of quarantine, keep"),
        (("SRC", "NEW", "--links", "MISSING/links.csv"), "cannot write --links"),
    ],
)  # fmt: skip
def test_a_mistake_is_exit_2_and_writes_nothing(cli, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    save(ct(), Path("SRC/ct.dcm"))
    save(ct(), Path("FULL/ct.dcm"))
    before = files(tmp_path)
    status, out, err = cli("deidentify", *arguments)
    assert (status, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert files(tmp_path) == before


def test_without_the_secret_it_explains_and_stops(cli, tmp_path, monkeypatch):
    monkeypatch.delenv(IDENTITY_KEY)
    save(ct(), tmp_path / "in/ct.dcm")
    status, out, err = cli("deidentify", tmp_path / "in", tmp_path / "out")
    assert (status, out) == (2, "")
    assert f"{IDENTITY_KEY} is not set" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_killed_run_leaves_no_output_and_the_next_one_makes_it(tmp_path):
    for number in range(60):
        save(ct(number=number), tmp_path / f"in/{number}.dcm")
    command = [sys.executable, "-m", "medloom", "deidentify", str(tmp_path / "in"), str(tmp_path / "out")]
    environment = os.environ | {IDENTITY_KEY: SECRET}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, start_new_session=True)
    deadline_s = time.monotonic() + 60
    while not list(tmp_path.glob(".partial-*/*/*.dcm")) and time.monotonic() < deadline_s:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    process.stderr.close()
    assert not (tmp_path / "out").exists()
    whole = [path for path in tmp_path.glob(".partial-*/*/*.dcm")]
    assert 0 < len(whole) < 60
    assert all(pydicom.dcmread(path).PatientIdentityRemoved == "YES" for path in whole)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(files(tmp_path / "out")) == 60


def test_a_full_disk_is_worth_retrying_and_leaves_nothing(scans, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    command = [sys.executable, "-m", "medloom", "deidentify", str(scans), str(tmp_path / "out")]
    done = subprocess.run(
        command, env=os.environ | {IDENTITY_KEY: SECRET}, capture_output=True, text=True, timeout=100, preexec_fn=limit
    )
    assert done.returncode == 75, done.stderr
    assert "cannot write the output: File too large" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_keeps_nothing_is_exit_1(cli, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("Zebedee")
    status, out, err = cli("deidentify", tmp_path / "in", tmp_path / "out")
    assert status == 1
    assert "1 object: 0 written, 1 refused" in out
    assert err.splitlines()[-1].endswith("could be de-identified")


@pytest.fixture(scope="module")
def ultrasound(tmp_path_factory) -> Path:
    """A frame of 8 bits with a name drawn into it, as a scanner writes them."""
    folder = tmp_path_factory.mktemp("us")
    noise = np.random.default_rng(5).integers(20, 60, (240, 480), dtype=np.uint8)
    picture = Image.fromarray(noise)
    ImageDraw.Draw(picture).text((20, 15), "ZEBEDEE QUENTIN 4711", fill=255, font=ImageFont.load_default(26))
    made = ct(patient="P4713")
    made.SOPClassUID, made.Modality = "1.2.840.10008.5.1.4.1.1.6.1", "US"
    made.set_pixel_data(np.asarray(picture), "MONOCHROME2", 8)
    save(made, folder / "us.dcm")
    return folder


@pytest.mark.slow
def test_text_in_a_frame_is_covered_and_the_header_says_so(cli, ultrasound, tmp_path):
    assert writing(text_boxes(pydicom.dcmread(ultrasound / "us.dcm").pixel_array[..., np.newaxis]))
    status, _, err = cli("deidentify", ultrasound, tmp_path / "kept-apart")
    assert status == 1, err
    status, _, err = cli("deidentify", ultrasound, tmp_path / "out", "--pixels", "mask")
    assert status == 0, err
    (path,) = (tmp_path / "out").rglob("*.dcm")
    written = pydicom.dcmread(path)
    assert written.BurnedInAnnotation == "NO"
    assert "113101" in {item.CodeValue for item in written.DeidentificationMethodCodeSequence}
    assert not writing(text_boxes(written.pixel_array[..., np.newaxis]))
    before = pydicom.dcmread(ultrasound / "us.dcm").pixel_array
    assert np.array_equal(written.pixel_array[80:], before[80:])
