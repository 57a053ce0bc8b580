"""New folder: a folder to hand on, whole or absent: files are written beside it and renamed when all of them stand."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from medloom.schemas.errors import ConfigError
from medloom.schemas.store import Store, mendable


@contextmanager
def new_folder(to: str) -> Iterator[Store]:
    """Give a folder to write into, which becomes `to` when the block ends without an error, and else is deleted.

    On an object store, which cannot rename, files are written at once: whoever writes puts its manifest.json last.

    Raises:
        ConfigError: there is something at `to`.
    """
    target = Store(to)
    if target.names("") or target.folders("") or (target.exists("") and not target.fs.isdir(target.root)):
        raise ConfigError(f"cannot write to {to}: it is not empty; give a new folder, or delete what is in it")
    if not target.is_local:
        yield target
        return
    root = os.path.abspath(target.root)
    partial = Store(f"{os.path.dirname(root)}/.partial-{uuid.uuid4().hex}-{os.path.basename(root)}")
    try:
        partial.make_folder("")
        yield partial
        os.rename(partial.root, root)  # an empty folder of that name gives way, a filled one does not
    except BaseException as fault:
        partial.delete_folder("")
        if isinstance(fault, OSError):
            raise mendable(fault, root) from fault
        raise
