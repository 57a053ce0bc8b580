"""PMC-OA, read."""

from typing import Any

import pydantic

from medloom.pipelines.imports.articles import Article
from medloom.pipelines.imports.job import Import, is_safe, parse_json, stem_of
from medloom.schemas.errors import Refused


class Captioned(pydantic.BaseModel):
    """A line of either published form of PMC-OA."""

    model_config = pydantic.ConfigDict(strict=True)

    article: str = pydantic.Field(validation_alias=pydantic.AliasChoices("PMC_ID", "pmcid"))
    picture: str = pydantic.Field(validation_alias=pydantic.AliasChoices("media_name", "image"))
    caption: str
    media_id: str = ""
    label: str = ""


def read(job: Import) -> None:
    """PMC-OA: every `*.jsonl` with `PMC_ID, media_id, caption, media_name` or `pmcid, image, caption`, and pictures.

    An article has its figures with captions and no text. Without `media_id` the part of the picture's name behind the
    PMCID is the figure's id, so that a sub-figure with its sub-caption is a figure of its own. Boxes of
    `subfigures.jsonl` are not read: a build finds panels itself. Licences as in the form `pmc_inline`.
    """
    found: dict[str, dict[str, Captioned]] = {}
    origins: dict[str, str] = {}
    for url in job.candidates(".jsonl"):
        for number, line in job.raw_lines(url):
            try:
                row = _row(line)
                figures = found.setdefault(row.article, {})
                if row.media_id in figures:
                    raise Refused("line.duplicate", f"{row.article} has a figure {row.media_id} already")
            except Refused as refused:
                job.refuse("line", f"{url}:{number}", refused)
                continue
            figures[row.media_id] = row
            origins.setdefault(row.article, url)
            job.made["line"] += 1
    for name, rows in found.items():
        try:
            job.begin(name)
        except Refused as refused:
            job.refuse("article", name, refused)
            continue
        shown = [
            job.figure(name, row.media_id, stem=stem_of(row.picture), label=row.label, caption=row.caption)
            for row in rows.values()
        ]
        job.article(Article(name, job.facts_of(name), figures=shown), origin=origins[name])


def _row(line: bytes) -> Captioned:
    value: Any = parse_json(line)
    try:
        row = Captioned.model_validate(value)
    except pydantic.ValidationError as fault:
        where = ".".join(map(str, fault.errors()[0]["loc"])) or "line"
        raise Refused("line.form", f"{where}: {fault.errors()[0]['msg'].lower()}") from fault
    if not is_safe(row.article) or "_" in row.article:
        raise Refused("line.article", "the article's id is no plain name such as PMC7500000")
    if "/" in row.picture or "\\" in row.picture or ".." in row.picture:
        raise Refused("line.picture", "the picture's name leads to another folder")
    media_id = row.media_id or stem_of(row.picture).removeprefix(f"{row.article}_")
    if not is_safe(media_id):
        raise Refused("line.id", "the figure's id is no plain name of at most 100 letters, digits, '.', '_' and '-'")
    return row.model_copy(update={"media_id": media_id})
