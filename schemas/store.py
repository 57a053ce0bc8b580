"""Store: the one reader and writer of a folder, local or any fsspec URL; every write is whole or absent."""

import errno
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from medloom.schemas.errors import FormatError, RetryLater, SourceError

_PARTIAL = ".partial-"  # name prefix of a file that is being written; what a killed run leaves is swept by the next
_SILENT_S = 60.0  # after which a web server that sends nothing is given up; S3's client does so by itself

Asked = TypeVar("Asked", bound=Callable[..., Any])


def _told(asking: Asked) -> Asked:
    """Let a method say in one sentence that a remote store does not answer."""

    @wraps(asking)
    def telling(self: "Store", *args: Any, **more: Any) -> Any:
        try:
            return asking(self, *args, **more)
        except Exception as fault:
            status = getattr(fault, "status", 0)
            if isinstance(fault, TimeoutError) or (isinstance(status, int) and status in (429, 500, 502, 503, 504)):
                said = f"status {status}" if status else "no answer in time"
                raise RetryLater(
                    f"cannot use {self.url}: {said}; the store is slow or down: run again later"
                ) from fault
            raise

    return telling  # type: ignore[return-value]


class Store:
    """A folder by URL: paths inside are relative, `/`-separated.

    Locally a write goes to a partial file that is synced and renamed; on an object store the final name is written at
    once, since there a PUT is atomic and a rename is not to be had.
    """

    def __init__(self, url: str):
        self.url = str(url).rstrip("/") or "/"
        try:
            self.fs, root = fsspec.core.url_to_fs(self.url, **_patience(self.url))
        except (ImportError, ValueError) as fault:
            raise SourceError(f"cannot open {self.url}: {fault}") from fault
        self.root = str(root).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether paths are files of this machine."""
        return "file" in self._protocols()

    @property
    def absolute_url(self) -> str:
        """Its URL as another process finds it, whatever folder that one runs in."""
        return self.root if self.is_local else self.url

    def _protocols(self) -> tuple[str, ...]:
        protocol = self.fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    def path(self, name: str) -> str:
        """The full path of `name` inside the file system."""
        return f"{self.root}/{name}" if name else self.root

    def _target(self, name: str) -> str:
        if ".." in name.split("/"):
            raise FormatError(f"cannot write {name!r} in {self.url}: it would lie elsewhere; a name may hold no '..'")
        return self.path(name)

    def local(self, name: str) -> Path:
        """The path of `name` on this machine; only when `is_local`."""
        if not self.is_local:
            raise SourceError(f"{self.url} is not a local folder")
        return Path(self.path(name))

    @_told
    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name is there."""
        if "http" not in self._protocols():
            return bool(self.fs.exists(self.path(name)))
        try:  # fsspec says of a web server's file that it is not there, whatever goes wrong
            self.fs.cat_file(self.path(name), start=0, end=1)
        except FileNotFoundError:
            return False
        except Exception as fault:
            if getattr(fault, "status", 0) != 416:  # of an empty file
                raise
        return True

    @_told
    def size(self, name: str) -> int:
        """Size of a file in bytes."""
        return int(self.fs.size(self.path(name)))

    @_told
    def names(self, folder: str) -> list[str]:
        """Names, relative to `folder`, of the files directly in it, sorted; partial files are left out."""
        try:
            self.fs.invalidate_cache()
            found = self.fs.ls(self.path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [e["name"].rstrip("/").rsplit("/", 1)[-1] for e in found if e["type"] == "file"]
        return sorted(n for n in names if n and not n.startswith(_PARTIAL))

    @_told
    def folders(self, folder: str) -> list[str]:
        """Names, relative to `folder`, of the folders directly in it, sorted."""
        try:
            self.fs.invalidate_cache()
            found = self.fs.ls(self.path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(e["name"].rstrip("/").rsplit("/", 1)[-1] for e in found if e["type"] == "directory")

    @_told
    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes [start, end) of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        return bytes(self.fs.cat_file(self.path(name), start=start, end=end))

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, replacing what was there.

        Raises:
            RetryLater: the disk is full.
        """
        with self.writing(name) as file:
            file.write(data)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file to write; it stands under its name only when the block ends without an error.

        Raises:
            FormatError: the name leads out of the folder.
            RetryLater: the disk is full.
        """
        target = self._target(name)
        if not self.is_local:
            with tempfile.TemporaryFile() as spool:
                yield spool
                spool.seek(0)
                self._put(spool, target)
            return
        folder, base = os.path.split(target)
        try:
            os.makedirs(folder, exist_ok=True)
            partial = _partial(folder, base)
            try:
                with open(partial, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, target)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as fault:
            raise mendable(fault, target) from fault

    def _put(self, spool: IO[bytes], target: str) -> None:
        with self.fs.open(target, "wb") as file:
            while block := spool.read(16 << 20):
                file.write(block)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if none of that name is there; return whether it was written.

        Locally by exclusive creation, on an object store by If-None-Match where the file system offers it.
        """
        target = self._target(name)
        if self.is_local:
            try:
                return self._create_local(target, data)
            except OSError as fault:
                raise mendable(fault, target) from fault
        try:
            self.fs.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        return True

    def _create_local(self, target: str, data: bytes) -> bool:
        folder, base = os.path.split(target)
        os.makedirs(folder, exist_ok=True)
        partial = _partial(folder, base)
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, target)  # unlike a rename, it never replaces what is there
        except FileExistsError:
            return False
        finally:
            Path(partial).unlink(missing_ok=True)
        return True

    def make_folder(self, name: str) -> None:
        """Make a folder of this machine, and those above it; one that is there is fine."""
        try:
            os.makedirs(self.local(name), exist_ok=True)
        except OSError as fault:
            raise mendable(fault, self.path(name)) from fault

    def delete(self, name: str) -> None:
        """Delete a file; one that is not there is fine."""
        if self.fs.exists(target := self._target(name)):
            self.fs.rm_file(target)

    def delete_folder(self, name: str) -> None:
        """Delete a folder and all in it; one that is not there is fine."""
        if self.fs.exists(target := self._target(name)):
            self.fs.rm(target, recursive=True)

    def sweep(self, folder: str) -> None:
        """Delete the partial files that a killed run left in `folder`; only for the holder of the build's lock."""
        if self.is_local and self.local(folder).is_dir():
            for leftover in self.local(folder).glob(f"{_PARTIAL}*"):
                leftover.unlink(missing_ok=True)

    @_told
    def read_table(
        self, name: str, columns: list[str] | None = None, *, among: tuple[str, list[str]] | None = None
    ) -> pa.Table:
        """Return a Parquet file as a table; with `among`, only the rows whose column is one of the values."""
        filters = [(among[0], "in", among[1])] if among else None
        if among and not among[1]:
            return pq.read_schema(self.path(name), filesystem=self.fs).empty_table()
        if not (columns or filters or self.is_local):  # one request where the file system would ask a dozen times
            return pq.read_table(pa.BufferReader(self.read(name)))
        return pq.read_table(self.path(name), filesystem=self.fs, columns=columns, partitioning=None, filters=filters)

    @_told
    def rows_of(self, name: str) -> int:
        """Number of rows of a Parquet file, by its footer."""
        with self.fs.open(self.path(name), "rb") as file:
            return int(pq.read_metadata(file).num_rows)

    def write_table(self, name: str, table: pa.Table, metadata: dict[str, str] | None = None) -> None:
        """Write a table as Parquet: zstd, row groups of 64 Ki rows, the same bytes for the same rows.

        `metadata` is kept in the file's key-value metadata.
        """
        with self.writing(name) as file:
            _write_parquet(table, file, metadata)

    def create_table(self, name: str, table: pa.Table, metadata: dict[str, str] | None = None) -> bool:
        """Write a small table as `write_table` does, only if no file of that name is there; return whether it was."""
        return self.create(name, parquet_bytes(table, metadata))

    @_told
    def table_metadata(self, name: str) -> dict[str, str]:
        """Return the key-value metadata that `write_table` kept."""
        with self.fs.open(self.path(name), "rb") as file:
            raw: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
        return {k.decode(): v.decode() for k, v in raw.items()}

    def __reduce__(self) -> Any:
        return Store, (self.url,)


def _patience(url: str) -> dict[str, Any]:
    """Return the options by which a web server may take as long as it sends something, and no longer."""
    if not url.startswith(("http://", "https://")):
        return {}
    import aiohttp

    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(sock_connect=_SILENT_S, sock_read=_SILENT_S)}}


def _partial(folder: str, base: str) -> str:
    """Return a name of its own for every write: threads, and machines that share a disk, share process ids."""
    return f"{folder}/{_PARTIAL}{uuid.uuid4().hex}-{base}"


def parquet_bytes(table: pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    """Return the file that `Store.write_table` writes."""
    file = io.BytesIO()
    _write_parquet(table, file, metadata)
    return file.getvalue()


def _write_parquet(table: pa.Table, file: IO[bytes], metadata: dict[str, str] | None) -> None:
    if metadata:
        table = table.replace_schema_metadata(metadata)
    with pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=True) as writer:
        if table.num_rows:  # else Hugging Face stumbles over a row group of no rows
            writer.write_table(table, row_group_size=65536)


def mendable(fault: OSError, target: str) -> Exception:
    """Turn a full disk or a missing permission into an error of one sentence; others stay as they are."""
    if fault.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RetryLater(
            f"cannot write {target}: the disk is full, or files may not grow that large; free some space and run the "
            "same command again"
        )
    if fault.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return SourceError(f"cannot write {target}: {fault.strerror}; choose a folder that you may write to")
    if fault.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return SourceError(f"cannot write {target}: {(fault.strerror or '').lower()}; choose another folder")
    return fault
