"""Show: an id followed back: an example to its evidence, media and article; a medium to its file, licence, checksum."""

import json
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from medloom.pipelines.tables.known import LINKS
from medloom.schemas.build import Build, conform
from medloom.schemas.errors import FormatError, SourceError
from medloom.schemas.origin import TERMS
from medloom.schemas.release import find_release
from medloom.schemas.shard import ShardName
from medloom.schemas.tables import LINK, measured_values

FIGURE_SHOWN = ("fig_key", "label", "caption", "scope_id", "licence_override")
ARTICLE_SHOWN = (
    "article_key", "pmcid", "doi", "title", "journal", "pub_date", "article_type", "licence_code", "licence_text",
    "licence_evidence", "terms_id", "attribution", "is_retracted", "source", "source_digest",
)  # fmt: skip


def show(build: Build, name: str) -> dict[str, Any]:
    """Return all that a build knows of an example_id, a medium's key, a unit or a refused object.

    Raises:
        SourceError: nothing of that name is in the build.
    """
    for found in (_example, _medium, _unit, _refused):
        facts = found(build, name)
        if facts:
            return facts
    raise SourceError(
        f"{build.url} holds no example, medium, unit or refused object called {name!r}; ids stand in the report and in "
        "`medloom show OUT UNIT`"
    )


def _example(build: Build, name: str) -> dict[str, Any]:
    task = name.rpartition("-")[0]
    for kind, print_ in build.tasks():
        if kind != task:
            continue
        for path in build.example_parts(kind, print_):
            rows = build.store.read_table(path, among=("example_id", [name])).to_pylist()
            if rows:
                row = {**rows[0], "measured": measured_values(rows[0]["measured"])}
                evidence = [_evidence(build, row["unit"], e) for e in row.pop("evidence")]
                facts = {"what": "example", "example": row, "part": path, "state": _state(build, row)}
                facts["evidence"] = evidence
                facts["media"] = [_medium(build, key) for key in row["media"]]
                return facts | ({} if row["media"] else {"unit": _unit(build, row["unit"])})
    return {}


def _state(build: Build, row: dict[str, Any]) -> str:
    """Return the example's state in the newest release of this build, "in no release" where there is none."""
    release = find_release(f"{build.url}/releases")
    if release is None:
        return "in no release"
    rows = release.rows.filter(pc.equal(release.rows["example_id"], row["example_id"])).to_pylist()
    return f"{release.states().of_row(rows[0])} in release {release.number}" if rows else "in no release"


def _evidence(build: Build, unit: str, evidence: dict[str, Any]) -> dict[str, Any]:
    """Return the evidence with the text that it is a span of, and whether it is that span."""
    kind, _, name = evidence["where"].partition(":")
    text = ""
    if kind == "paragraph":
        rows = build.table("paragraph", units=[unit]).to_pylist()
        text = next((r["text"] for r in rows if r["par_id"] == name), "")
    elif kind == "caption":
        rows = build.table("figure", units=[unit]).to_pylist()
        text = next((r["caption"] for r in rows if r["fig_key"] == name), "")
    exact = text[evidence["start"] : evidence["end"]] == evidence["text"] if text else None
    return {**evidence, "is_exact_span": exact, "of": text}


def _medium(build: Build, name: str) -> dict[str, Any]:
    for shard, ledger in build.ledgers():
        if any(name in unit["kept"] for unit in ledger["units"]):
            return _stored(build, shard, name)
    return {}


def _stored(build: Build, shard: ShardName, name: str) -> dict[str, Any]:
    members = [row for row in build.index(shard).to_pylist() if row["key"] == name]
    facts = next(json.loads(build.member(row, shard)) for row in members if row["field"] == "json")
    shown = {
        row["field"]: {n: row[n] for n in ("offset", "size", "crc32c", "shape", "dtype", "spacing_mm")}
        for row in members
    }
    ledger, layout = build.ledger(shard), members[0]["layout"]
    assert ledger is not None
    found = {
        "what": "medium", "key": name, "tar": shard.tar(layout), "tar_sha256": ledger["tars"][layout]["sha256"],
        "bytes_checked": _checked(build, shard, members), "members": shown, "facts": facts,
        "terms": asdict(TERMS[facts["terms_id"]]),
        "files": _files(build, facts["unit"], name),
    }  # fmt: skip
    figures = build.table("figure", units=[facts["unit"]]).to_pylist()
    for figure in figures:
        if any(m["key"] == name for m in figure["media"]):
            found["figure"] = {n: figure[n] for n in FIGURE_SHOWN}
            found["mentions"] = _mentions(build, facts["unit"], figure["fig_key"])
    return found | _source_rows(build, facts["unit"])


def _checked(build: Build, shard: ShardName, members: list[dict[str, Any]]) -> bool:
    """Whether the bytes of all members have the checksums of the index."""
    try:
        return all(len(build.member(row, shard)) == row["size"] for row in members)
    except FormatError:
        return False


def _mentions(build: Build, unit: str, fig_key: str) -> list[dict[str, Any]]:
    """Return the sentences that cite a figure."""
    texts = {r["par_id"]: r["text"] for r in build.table("paragraph", units=[unit]).to_pylist()}
    return [
        {
            "par_id": m["par_id"],
            "mention": m["text"],
            "sentence": texts.get(m["par_id"], "")[m["sent_start"] : m["sent_end"]],
            "confidence": m["confidence"],
        }
        for m in build.table("mention", units=[unit]).to_pylist()
        if fig_key in m["fig_keys"]
    ]


def _source_rows(build: Build, unit: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in build.table("article", units=[unit]).to_pylist():
        found["article"] = {n: row[n] for n in ARTICLE_SHOWN}
    for row in build.table("series", units=[unit]).to_pylist():
        found["series"] = row
    return found


def _unit(build: Build, name: str) -> dict[str, Any]:
    rows = build.table("group", units=[name]).to_pylist()
    if not rows:
        return {}
    ledgers = [(s, u) for s, ledger in build.ledgers() for u in ledger["units"] if u["unit"] == name]
    found: dict[str, Any] = {"what": "unit", **rows[0], "files": _files(build, name, "")}
    if ledgers:
        found |= {"shard": str(ledgers[0][0]), "digest": ledgers[0][1]["digest"], "media": ledgers[0][1]["kept"]}
    found["refused"] = [r for r in build.refusals() if r["unit"] == name]
    return found | _source_rows(build, name)


def _refused(build: Build, name: str) -> dict[str, Any]:
    rows = [r for r in build.refusals() if name in (r["unit"], r["key"])]
    if not rows:
        return {}
    unit = rows[0]["unit"]
    found: dict[str, Any] = {"what": "refusal", "key": name, "refused": rows, "files": _files(build, unit, name)}
    for figure in build.table("figure", units=[unit]).to_pylist():
        if name == figure["fig_key"] or any(m["key"] == name for m in figure["media"]):
            found["figure"] = {n: figure[n] for n in FIGURE_SHOWN}
    return found | _source_rows(build, unit)


def _files(build: Build, unit: str, key: str) -> list[str]:
    """Return the source objects of a unit, or of one of its media, for whoever may read the private links."""
    store = build.store
    found = []
    for part in store.names(LINKS):
        rows = conform(store.read_table(f"{LINKS}/{part}", among=("unit", [unit])), LINK).to_pylist()
        found += [r for r in rows if not key or r["key"] in (key, "", "mask")]
    return [r["url"] for r in sorted(found, key=lambda r: (r["key"] != "", r["order"], r["url"]))]
