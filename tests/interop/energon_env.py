"""Megatron-energon in a virtual environment of its own, since its pins are not ours; it is kept in pytest's cache."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

VERSION = "7.4.1"
_SCRIPT = Path(__file__).with_name("energon_reads.py")


def energon_python(config: pytest.Config) -> str:
    """Return a Python that imports megatron.energon; what this environment has too (torch) is not installed again."""
    folder = config.cache.mkdir(f"energon-{VERSION}-{sys.version_info.major}.{sys.version_info.minor}")
    python, done = folder / "bin" / "python", folder / "installed"
    ours = sysconfig.get_path("purelib")
    if not (done.exists() and done.read_text() == ours):
        venv.create(folder, with_pip=True, clear=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "host.pth").write_text(f"{ours}\n")
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        made = subprocess.run(
            [*install, f"megatron-energon=={VERSION}"], capture_output=True, text=True, timeout=300, check=False
        )
        if made.returncode:
            pytest.skip(f"needs megatron-energon: {(made.stderr.strip().splitlines() or ['pip failed'])[-1]}")
        done.write_text(ours)
    return str(python)


def energon(python: str, *arguments: str) -> str:
    """Run the script of this folder under energon's Python and return what it prints."""
    done = subprocess.run([python, str(_SCRIPT), *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]
