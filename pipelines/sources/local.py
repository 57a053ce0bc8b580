"""An object of a source as a file of this machine: itself when it is one, else a copy that lasts as long as needed."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from medloom.pipelines.sources.listing import check_digest, is_kept, is_local, place_of
from medloom.pipelines.sources.members import is_member, save_member
from medloom.schemas.errors import Refused


@contextmanager
def local_copy(root: str, url: str, *, etag: str = "") -> Iterator[str]:
    """Give the path of an object on this machine; a remote one, or a member of an archive, is a temporary file.

    `etag` is as it was listed; by it an object of a raw zone is found, and its bytes are verified.

    Raises:
        Refused("source.unreadable"): it is not there (any more), no file, or may not be read; its path is not told.
        Refused("source.damaged"): of a raw zone, it holds other bytes than were fetched.
        Refused("archive.…"): the archive that it is in, or this member of it, cannot be read.
    """
    if is_member(root, url):
        with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
            target = os.path.join(folder, "object" + "".join(_endings(url)))
            save_member(root, url, target, etag=etag)
            yield target
        return
    fs, full = place_of(root, url, etag)
    if is_local(fs):
        if not os.path.isfile(full) or not os.access(full, os.R_OK):
            raise Refused("source.unreadable", "the file is not there any more, or may not be read")
        if not is_kept(etag):
            yield full
            return
    with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
        target = os.path.join(folder, "object" + ("".join(_endings(url))))
        if is_local(fs):
            os.symlink(os.path.abspath(full), target)
        else:
            try:
                remote = fs.open(full, "rb")
            except (FileNotFoundError, PermissionError) as fault:
                raise Refused("source.unreadable", "the object is not there any more, or may not be read") from fault
            with remote, open(target, "wb") as file:
                shutil.copyfileobj(remote, file, 16 << 20)
        if is_kept(etag):
            with open(target, "rb") as file:
                check_digest(etag, hashlib.file_digest(file, "sha256").hexdigest())
        yield target


def _endings(url: str) -> list[str]:
    """Keep `.nii`, `.gz` of a name, by which readers choose; nothing else of it."""
    name = url.lower()
    return [e for e in (".nii", ".gz") if name.endswith(e) or name.removesuffix(".gz").endswith(e)]
