"""The inventory of the PMC bucket: every article version with the ETag of its record, as Arrow batches.

A report is a manifest, its checksum, and headerless gzipped CSV files of all keys under `metadata/`; the newest whole
one counts. Source: "Amazon S3 Inventory", and the columns that the manifest's `fileSchema` names.
"""

import gzip
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pydantic

from medloom.connectors.pmc import ObjectUrl, PmcCloud, is_plain_key
from medloom.schemas.errors import Refused, SourceError

FOLDER = "inventory-reports/pmc-oa-opendata/metadata/"
MAX_MANIFEST_BYTES = 64 << 20
MAX_FILE_BYTES = 4 << 30  # gzipped; five files of 51 MB in September 2026
BLOCK_BYTES = 1 << 20  # of CSV; the reader works up to 32 of them ahead
_REPORT = re.compile(rf"{re.escape(FOLDER)}(\d{{4}}-\d\d-\d\dT\d\d-\d\dZ)/")
_RECORD = r"^metadata/PMC(?P<pmc>[1-9]\d{0,11})\.(?P<version>[1-9]\d{0,4})\.json$"

# One row per article version: the digits of its PMCID, its version, the ETag of its record.
VERSION = pa.schema([("pmc", pa.int64()), ("version", pa.int32()), ("etag", pa.string())])


class _File(pydantic.BaseModel):
    key: str
    size: Annotated[int, pydantic.Field(ge=0)]
    MD5checksum: Annotated[str, pydantic.Field(pattern=r"^[0-9a-fA-F]{32}$")]


class _Manifest(pydantic.BaseModel):
    fileFormat: str  # noqa: N815  the service's own names
    fileSchema: str  # noqa: N815
    files: list[_File]


@dataclass(frozen=True)
class Report:
    """One inventory report.

    Attributes:
        stamp: when it was made, "2026-09-04T01-00Z"; sorts by time.
        columns: of the CSV files, in order.
        files: key, md5 and size of each.
    """

    stamp: str
    columns: tuple[str, ...]
    files: tuple[tuple[ObjectUrl, int], ...]


def newest_report(cloud: PmcCloud) -> Report:
    """Return the newest report that is whole: one that is still being written has no checksum yet.

    Raises:
        SourceError: there is none, or it is of a form that we do not know.
        Refused("http.md5"): the manifest is not the one that its checksum was made of.
    """
    found = [_REPORT.fullmatch(each.key) for each in cloud.listing(FOLDER, delimiter="/")]
    for stamp in sorted((m[1] for m in found if m), reverse=True):
        try:
            checksum = cloud.get(ObjectUrl(f"{FOLDER}{stamp}/manifest.checksum", ""), max_bytes=1024).content
        except Refused as refused:
            if refused.reason != "http.not_found":
                raise
            continue
        md5 = checksum.decode("ascii", "replace").strip().strip('"').lower()
        target = ObjectUrl(f"{FOLDER}{stamp}/manifest.json", md5)
        return _report(stamp, cloud.get(target, max_bytes=MAX_MANIFEST_BYTES).content)
    raise SourceError(f"{cloud.url} holds no inventory report; fetch by ids or by query")


def _report(stamp: str, data: bytes) -> Report:
    try:
        manifest = _Manifest.model_validate_json(data)
    except pydantic.ValidationError as fault:
        first = fault.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SourceError(f"the inventory of {stamp} cannot be read: {where}: {first['msg']}") from fault
    columns = tuple(name.strip() for name in manifest.fileSchema.split(","))
    if manifest.fileFormat != "CSV" or not {"Key", "ETag"} <= set(columns) or len(set(columns)) != len(columns):
        raise SourceError(
            f"the inventory of {stamp} is {manifest.fileFormat} with columns {manifest.fileSchema!r}; CSV with Key and "
            "ETag is what this version reads"
        )
    files = []
    for each in manifest.files:
        if not is_plain_key(each.key):
            raise SourceError(f"the inventory of {stamp} names a file whose key is not plain")
        files.append((ObjectUrl(each.key, each.MD5checksum.lower()), each.size))
    return Report(stamp, columns, tuple(files))


def read_report(cloud: PmcCloud, report: Report) -> Iterator[pa.Table]:
    """Give the article versions of a report as tables of `VERSION`, a bounded number of rows at a time.

    One file is on disk at a time, checked for size and md5 before a row of it is read. Keys of other objects are
    passed over; deleted objects are not in a report.

    Raises:
        Refused("http.md5" | "http.truncated"): a file is not what the manifest says, each time it is asked.
        SourceError: a file is no gzipped CSV of the columns that the manifest names.
    """
    with tempfile.TemporaryDirectory(prefix="medloom-") as folder:
        for target, size in report.files:
            path = Path(folder, "inventory.csv.gz")
            cloud.download(target, to=path, max_bytes=MAX_FILE_BYTES, size=size)
            yield from _read(path, report, target.name)
            path.unlink()


def _read(path: Path, report: Report, name: str) -> Iterator[pa.Table]:
    reading = pa.csv.ReadOptions(column_names=list(report.columns), block_size=BLOCK_BYTES, use_threads=False)
    types = dict.fromkeys(report.columns, pa.string())
    converting = pa.csv.ConvertOptions(column_types=types, include_columns=["Key", "ETag"], strings_can_be_null=False)
    try:
        with gzip.open(path) as file:
            if not file.read(1):  # a file of no rows, at which the CSV reader stumbles
                return
        with pa.input_stream(str(path), compression="gzip") as stream:
            for batch in pa.csv.open_csv(stream, read_options=reading, convert_options=converting):
                yield _versions(pa.Table.from_batches([batch]))
    except (pa.ArrowInvalid, OSError, EOFError) as fault:
        raise SourceError(
            f"file {name} of the inventory of {report.stamp} is no gzipped CSV with columns {', '.join(report.columns)}"
        ) from fault


def _versions(rows: pa.Table) -> pa.Table:
    keys = rows["Key"].combine_chunks()
    parts = pc.extract_regex(keys, _RECORD)
    known = pc.is_valid(parts)
    parts, etags = parts.filter(known), rows["ETag"].combine_chunks().filter(known)
    columns = [
        pc.cast(pc.struct_field(parts, "pmc"), pa.int64()),
        pc.cast(pc.struct_field(parts, "version"), pa.int32()),
        pc.utf8_trim(etags, '"'),
    ]
    return pa.Table.from_arrays(columns, schema=VERSION)
