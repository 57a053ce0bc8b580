"""Told: the facts of `medloom.pipelines.show` as lines for people: what it is, where it stands, what it comes from."""

from collections.abc import Iterator
from typing import Any

TEXT_SHOWN = 300  # characters of a caption, a paragraph or an answer; --json has all of it
MENTIONS_SHOWN = 5
WIDTH = 11
Facts = dict[str, Any]


def told(facts: Facts) -> str:
    """Return the facts as text, two columns: what is said, and it."""
    says = {"example": _example, "medium": _medium, "unit": _unit, "refusal": _refusal}
    return "\n".join(says[facts["what"]](facts))


def _example(facts: Facts) -> Iterator[str]:
    row = facts["example"]
    yield f"example {row['example_id']}, {facts['state']}"
    yield _line("made", f"task {row['task']} by {row['generator']}, {row['language']}, {row['split']}")
    yield _line("of", f"unit {row['unit']}, group {row['group']}, source {row['source']}")
    yield _line("licence", f"{row['licence'] or 'not stated'}, terms {row['terms_id']}")
    yield _line("stored", facts["part"])
    for turn in row["turns"]:
        yield _line(turn["role"], _cut(" ".join(map(_part, turn["parts"]))))
    if row["labels"]:
        yield _line("labels", ", ".join(row["labels"]))
    for evidence in facts["evidence"]:
        yield _line("evidence", _evidence(evidence))
    for medium in facts["media"]:
        yield ""
        yield from _medium(medium)
    if "unit" in facts:
        yield ""
        yield from _unit(facts["unit"])


def _part(part: Facts) -> str:
    box = " box " + ",".join(map(str, part["box"])) if part["box"] else ""
    return f"[{part['media']}{box}]" if part["media"] else part["text"]


def _evidence(evidence: Facts) -> str:
    if evidence["is_exact_span"] is None:
        return f"{evidence['where']}: {_cut(evidence['text'])}"
    exact = "the exact words" if evidence["is_exact_span"] else "NOT the words that stand there"
    span = f"{evidence['where']} [{evidence['start']}:{evidence['end']}]"
    return f'{span}, {exact}: "{_cut(evidence["text"])}"'


def _medium(facts: Facts) -> Iterator[str]:
    said = facts["facts"]
    yield f"medium {facts['key']}, {said['layout']}, {said['modality']} {_shape(said)}".rstrip()
    if said["text"]:
        yield _line("text", _cut(said["text"]))
    if "affine" in said:
        yield from _geometry(said)
    bytes_ = "as the index says" if facts["bytes_checked"] else "NOT what the index says: run `medloom lint`"
    yield _line("stored", f"{facts['tar']}, bytes {bytes_}")
    for field, member in facts["members"].items():
        yield _line("", f"{field}: {member['size']:,} bytes at {member['offset']:,}, crc32c {member['crc32c']:08x}")
    yield _line("tar sha256", facts["tar_sha256"])
    yield _line("digest", f"{said['digest']} of the source's file")
    yield _line("changed", said["transforms"] or ("encoded anew" if said.get("reencoded") else "nothing"))
    yield from _figure(facts)
    yield from _source(facts)
    yield _line("licence", f"{said['licence'] or 'not stated'} ({said['licence_evidence']})")
    yield _line("terms", f"{said['terms_id']}: {_terms(facts['terms'])}")
    if said["attribution"]:
        yield _line("name", said["attribution"])
    for file in facts["files"]:
        yield _line("file", file)


def _shape(said: Facts) -> str:
    if "shape" in said:
        return " × ".join(map(str, said["shape"])) + " (Z, Y, X)"
    return f"{said['height']} × {said['width']} × {said['channels']}"


def _geometry(said: Facts) -> Iterator[str]:
    spacing = " × ".join(f"{s:.4g}" for s in said["spacing_mm"])
    yield _line("geometry", f"spacing {spacing} mm (Z, Y, X), axes x, y, z to {said['orientation']}, {said['dtype']}")
    rows = [[f"{value:.6g}" for value in row] for row in said["affine"]]
    wide = max(len(cell) for row in rows for cell in row)
    for i, row in enumerate(rows):
        yield _line("" if i else "affine", " ".join(cell.rjust(wide) for cell in row))


def _terms(terms: Facts) -> str:
    may = [name for name in ("redistribution", "derivatives", "commercial") if terms[name]]
    egress = {"none": "no language model", "local": "a local language model", "any": "any language model"}
    return (
        f"permit {', '.join(may) or 'none of redistribution, derivatives, commercial'}; {egress[terms['llm_egress']]}"
    )


def _figure(facts: Facts) -> Iterator[str]:
    if "figure" in facts:
        figure = facts["figure"]
        yield _line("figure", f"{figure['label'] or figure['fig_key']}: {_cut(figure['caption'])}")
    for mention in facts.get("mentions", [])[:MENTIONS_SHOWN]:
        yield _line("cited", f'{mention["par_id"]}: "{_cut(mention["sentence"])}"')
    if len(facts.get("mentions", [])) > MENTIONS_SHOWN:
        yield _line("", f"and {len(facts['mentions']) - MENTIONS_SHOWN} more sentences")


def _source(facts: Facts) -> Iterator[str]:
    if "article" in facts:
        article = facts["article"]
        names = [article["journal"], article["pub_date"], article["pmcid"], article["doi"] and f"doi:{article['doi']}"]
        yield _line("article", f"{_cut(article['title'])} ({', '.join(filter(None, names))})")
        if article["is_retracted"]:
            yield _line("", "retracted")
    if "series" in facts:
        series = facts["series"]
        known = [series["modality"], series["body_part"], series["plane"], f"{series['n_objects']} objects"]
        yield _line("series", f"{series['unit']}: {series['format']}, {', '.join(filter(None, known))}")


def _unit(facts: Facts) -> Iterator[str]:
    yield f"unit {facts['unit']}, source {facts['source']}"
    yield _line("group", f"{facts['group']}, {facts['split']} by {facts['split_by']}")
    if "shard" in facts:
        yield _line("shard", f"{facts['shard']}, digest {facts['digest']}")
        yield _line("media", ", ".join(facts["media"]) or "none")
    yield from _source(facts)
    for row in facts["refused"]:
        yield _line("refused", _refused(row))
    for file in facts["files"]:
        yield _line("file", file)


def _refusal(facts: Facts) -> Iterator[str]:
    yield f"refused {facts['key']}"
    for row in facts["refused"]:
        yield _line(row["stage"], _refused(row))
    yield from _figure(facts)
    yield from _source(facts)
    for file in facts["files"]:
        yield _line("file", file)


def _refused(row: Facts) -> str:
    name = f"{row['key']}: " if row["key"] else ""
    return f"{name}{row['reason']}" + (f": {row['detail']}" if row["detail"] else "")


def _line(name: str, text: str) -> str:
    return f"  {name:{WIDTH}}{text}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= TEXT_SHOWN else f"{text[: TEXT_SHOWN - 1].rstrip()}…"
