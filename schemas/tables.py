"""The Arrow schema of every table; columns are only ever added."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

FORMAT_VERSION = 1

_s, _i, _l, _f, _b = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_strings = pa.list_(_s)

PANEL_BOX = pa.struct([("letter", _s), ("box", pa.list_(_i)), ("confidence", _f)])
PANEL = pa.struct([("letter", _s), ("start", _i), ("end", _i), ("text", _s)])
FIGURE_MEDIA = pa.struct([("href", _s), ("key", _s), ("md5", _s), ("role", _s)])
LABEL = pa.struct([
    ("layer", _i), ("value", _i), ("name", _s), ("side", _s), ("stated", _s), ("voxels", _l), ("volume_ml", _f),
    ("box", pa.list_(_i)),
])  # fmt: skip
PART = pa.struct([("text", _s), ("media", _s), ("box", pa.list_(_i))])
TURN = pa.struct([("role", _s), ("parts", pa.list_(PART))])
REGION = pa.struct([
    ("media", _s), ("layer", _i), ("value", _i), ("box", pa.list_(_i)), ("phrase", _s), ("name", _s), ("side", _s),
])  # fmt: skip
EVIDENCE = pa.struct([("where", _s), ("start", _i), ("end", _i), ("text", _s)])
MEASURED = pa.list_(pa.struct([("name", _s), ("value", _f)]))  # no map: Hugging Face datasets cannot read one

TABLES: dict[str, pa.Schema] = {
    # Papers. `article_key` is the unit; offsets are half-open and count characters of `paragraph.text`.
    "article": pa.schema([
        ("article_key", _s), ("pmcid", _s), ("version", _i), ("doi", _s), ("pmid", _s), ("title", _s), ("journal", _s),
        ("pub_date", _s), ("article_type", _s), ("lang", _s), ("licence_code", _s), ("licence_url", _s),
        ("licence_text", _s), ("licence_evidence", _s), ("licence_conflict", _b), ("terms_id", _s),
        ("attribution", _s), ("is_retracted", _b), ("is_case_report", _b), ("case_rules", _strings), ("n_figs", _i),
        ("source", _s), ("source_md5", _s), ("source_digest", _s), ("source_bytes", _l), ("parser_version", _s),
        ("retracts", _strings),
    ]),
    "section": pa.schema([
        ("article_key", _s), ("sec_id", _s), ("path", _strings), ("title", _s), ("sec_type", _s), ("order", _i),
        ("role", _s), ("patient", _i),
    ]),
    "paragraph": pa.schema([
        ("article_key", _s), ("par_id", _s), ("sec_id", _s), ("scope_id", _s), ("where", _s), ("order", _i),
        ("text", _s),
    ]),
    "figure": pa.schema([
        ("article_key", _s), ("fig_key", _s), ("xml_id", _s), ("scope_id", _s), ("order", _i), ("label", _s),
        ("numbers", _strings), ("group_id", _s), ("parent_fig", _s), ("caption_title", _s), ("caption_paras", _strings),
        ("caption", _s), ("panels", pa.list_(PANEL)), ("media", pa.list_(FIGURE_MEDIA)), ("licence_override", _s),
        ("terms_id", _s), ("kind", _s),
    ]),
    "mention": pa.schema([
        ("article_key", _s), ("par_id", _s), ("start", _i), ("end", _i), ("text", _s), ("sent_start", _i),
        ("sent_end", _i), ("fig_keys", _strings), ("panels", pa.map_(_s, _strings)), ("qualifier", _s),
        ("method", _s), ("confidence", _f), ("where", _s), ("status", _s),
    ]),
    # Scans and images: one row per image series, header facts by allow-list, never a name, a UID or a path.
    "series": pa.schema([
        ("unit", _s), ("study", _s), ("source", _s), ("format", _s), ("modality", _s), ("body_part", _s), ("plane", _s),
        ("n_objects", _i), ("rows", _i), ("columns", _i), ("spacing_mm", pa.list_(_f)), ("text", _s), ("terms_id", _s),
        ("licence", _s), ("attribution", _s), ("key_id", _s), ("source_bytes", _l),
    ]),
    # What a source's table of labels says of an image: presence is "present", "absent" or "uncertain"; box is half-open
    # pixels (y0, x0, y1, x1) of the image as it lies at the source, [] for the whole image.
    "finding": pa.schema([
        ("unit", _s), ("name", _s), ("side", _s), ("presence", _s), ("stated", _s), ("box", pa.list_(_f)), ("by", _s),
    ]),
    # Every unit of every source: its group and its split, recorded once.
    "group": pa.schema([("unit", _s), ("source", _s), ("group", _s), ("split", _s), ("split_by", _s)]),
    # What was refused while headers and papers were read; what a shard refused stands in its ledger.
    "quarantine": pa.schema([
        ("unit", _s), ("key", _s), ("source", _s), ("stage", _s), ("reason", _s), ("detail", _s), ("source_bytes", _l),
    ]),
    # Units that their source took back, or replaced by a newer version, after the build had read them.
    "withdrawal": pa.schema([("unit", _s), ("source", _s), ("reason", _s), ("detail", _s)]),
    "verdict": pa.schema([
        ("subject", _s), ("digest", _s), ("scope", _s), ("check", _s), ("version", _s), ("by", _s), ("outcome", _s),
        ("reason", _s), ("value", _f), ("supersedes", _s),
    ]),
}  # fmt: skip

PLAN = pa.schema([
    ("unit", _s), ("source", _s), ("group", _s), ("split", _s), ("shard", _i), ("position", _i), ("source_bytes", _l),
])  # fmt: skip

INDEX = pa.schema([
    ("key", _s), ("field", _s), ("unit", _s), ("group", _s), ("split", _s), ("layout", _s),
    ("offset", _l), ("size", _l),
    ("crc32c", pa.uint32()), ("shape", pa.list_(_i)), ("dtype", _s), ("spacing_mm", pa.list_(_f)),
    ("chunk_shape", pa.list_(_i)), ("block_shape", pa.list_(_i)), ("chunk_offsets", pa.list_(_l)),
    ("modality", _s), ("body_part", _s), ("plane", _s), ("source", _s), ("licence", _s), ("terms_id", _s),
    ("digest", _s), ("pixel_digest", _s), ("measured", MEASURED), ("phash", _s), ("panels", pa.list_(PANEL_BOX)),
    ("labels", pa.list_(LABEL)), ("labelled", _strings), ("affine", pa.list_(_f)), ("units", _s), ("face", _s),
    ("voxel_digest", _s), ("chunk_sizes", pa.list_(_i)), ("chunk_crc32c", pa.list_(pa.uint32())),
])  # fmt: skip

EXAMPLE = pa.schema([
    ("example_id", _s), ("unit", _s), ("group", _s), ("split", _s), ("task", _s), ("language", _s), ("generator", _s),
    ("source", _s), ("licence", _s), ("terms_id", _s), ("turns", pa.list_(TURN)), ("regions", pa.list_(REGION)),
    ("labels", _strings), ("evidence", pa.list_(EVIDENCE)), ("measured", MEASURED), ("media", _strings),
])  # fmt: skip

# The rows that streaming permutes, and all that `where` and `mix` see. `build` indexes release.json's builds; `part`
# and `row` say where in that build the example stands; shapes are those of its media, in order, as "32x256x256";
# `media_at` is where each medium's first member stands in the release's index of that split and layout.
RELEASE_ROW = pa.schema([
    ("example_id", _s), ("build", _i), ("source", _s), ("group", _s), ("split", _s), ("task", _s), ("language", _s),
    ("generator", _s), ("licence", _s), ("terms_id", _s), ("tier", _s), ("layouts", _strings), ("modalities", _strings),
    ("shapes", _strings), ("media", _strings), ("part", _s), ("row", _i), ("media_at", pa.list_(_l)),
])  # fmt: skip

# The release's own index of the media that its rows use, one file per split and layout: all that a reader needs to find
# and check bytes, without opening the indexes of the builds. Members of a medium are adjacent, those of a shard too.
RELEASE_INDEX = pa.schema([
    ("build", _i), ("shard", _i), ("key", _s), ("field", _s), ("offset", _l), ("size", _l), ("crc32c", pa.uint32()),
    ("shape", pa.list_(_i)), ("dtype", _s), ("spacing_mm", pa.list_(_f)), ("chunk_shape", pa.list_(_i)),
    ("block_shape", pa.list_(_i)), ("chunk_offsets", pa.list_(_l)), ("chunk_sizes", pa.list_(_i)),
    ("chunk_crc32c", pa.list_(pa.uint32())), ("modality", _s), ("body_part", _s), ("plane", _s), ("source", _s),
    ("licence", _s), ("terms_id", _s), ("units", _s),
])  # fmt: skip

# How long each row of a part of examples is to one tokenizer, in the order of the part's rows; beside them, never in
# them. `tokens` counts the text of all turns, `media` the places where a medium stands among them.
TOKENS = pa.schema([("example_id", _s), ("tokens", _i), ("media", _i)])

# A state of a subject in a release: "withheld" can be lifted by a curator, "withdrawn" cannot.
STATE = pa.schema([("scope", _s), ("id", _s), ("state", _s), ("reason", _s), ("by", _s)])

# One row per source object: which unit and medium it belongs to, and what the tokens stand for. Lives in OUT/private
# only. `key` is the medium of a paper's figure file, "" for the object that makes the unit, "mask", "seg" or "rtstruct"
# for a label map, a DICOM SEG or an RTSTRUCT that belongs to it; a refused object has one row too, so that it is not
# read again until it changes.
LINK = pa.schema([
    ("unit", _s), ("key", _s), ("source", _s), ("url", _s), ("size", _l), ("mtime_ns", _l), ("etag", _s), ("order", _i),
    ("original_unit", _s), ("original_group", _s),
])  # fmt: skip


def measured_cell(measured: Mapping[str, float]) -> list[dict[str, object]]:
    """Return measured values as a cell of a `measured` column, by name."""
    return [{"name": name, "value": float(value)} for name, value in sorted(measured.items())]


def measured_values(cell: Iterable[Mapping[str, Any]] | None) -> dict[str, float]:
    """Return the measured values of a cell, by name; a column that an older format has not is empty."""
    return {entry["name"]: entry["value"] for entry in cell or ()}


def empty(schema: pa.Schema) -> pa.Table:
    """Return a table of no rows."""
    return schema.empty_table()


def rows_to_table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Return `rows` as a table of `schema`; a missing or unknown column is a bug and raises ValueError."""
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise ValueError(f"row has columns {sorted(row.keys() ^ names)} more or less than its schema")
    return pa.Table.from_pylist(rows, schema=schema)
