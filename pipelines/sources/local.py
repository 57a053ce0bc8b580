"""An object of a source as a file of this machine: itself when it is one, else a copy that lasts as long as needed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec


@contextmanager
def local_copy(root: str, url: str) -> Iterator[str]:
    """Give the path of an object on this machine; a remote one is downloaded into a temporary file."""
    fs, path = fsspec.core.url_to_fs(root)
    full = f"{path.rstrip('/')}/{url}"
    protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if "file" in protocol:
        yield full
        return
    with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
        target = os.path.join(folder, "object" + ("".join(_endings(url))))
        with fs.open(full, "rb") as remote, open(target, "wb") as file:
            shutil.copyfileobj(remote, file, 16 << 20)
        yield target


def _endings(url: str) -> list[str]:
    """Keep `.nii`, `.gz` of a name, by which readers choose; nothing else of it."""
    name = url.lower()
    return [e for e in (".nii", ".gz") if name.endswith(e) or name.removesuffix(".gz").endswith(e)]
