"""A real Orthanc with its DICOMweb plugin on loopback, empty at first; a test without it skips."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
LOGIN = ("medloom", "only-for-tests")


@dataclass(frozen=True)
class Orthanc:
    """A running server: `url` is its base, `login` who may ask."""

    url: str
    login: tuple[str, str] = LOGIN

    def upload(self, data: bytes) -> None:
        httpx.post(f"{self.url}/instances", content=data, auth=self.login, timeout=60).raise_for_status()


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Run a server that keeps its data in `folder`."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True)
    settings = {
        "Name": "test", "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGIN)], "HttpPort": port, "DicomServerEnabled": False, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True, "RegisteredUsers": dict([LOGIN]), "SslEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "LimitFindResults": 0,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            running = Orthanc(f"http://127.0.0.1:{port}")
            _wait(running, server, folder / "log")
            yield running
        finally:
            server.terminate()
            server.wait(30)


def _wait(running: Orthanc, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            httpx.get(f"{running.url}/system", auth=running.login, timeout=5).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())
