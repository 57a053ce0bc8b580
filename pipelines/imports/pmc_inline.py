"""PMC-Inline as published, read."""

import re
from typing import Any

import pydantic

from medloom.pipelines.imports.articles import Article, Cited
from medloom.pipelines.imports.job import Import, parse_json, stem_of
from medloom.pipelines.imports.references import cited
from medloom.schemas.errors import Refused

_IDS = {"article-type": "article_type", "pmid": "pmid", "doi": "doi"}


class Published(pydantic.BaseModel):
    """A paper as published; its references are checked one by one."""

    model_config = pydantic.ConfigDict(strict=True)

    info: dict[str, Any] = {}
    text: str
    img_ref: list[Any] = []


def read(job: Import) -> None:
    """PMC-Inline as published: every `*.json` with `info`, `text` and `img_ref`, pictures named `PMCID_figid` anywhere.

    An article has its text with a cross-reference around the words of each reference, and a figure without caption for
    each id. The form states no licence: terms are "unknown" unless the folder is an export of ours, whose
    `articles.jsonl` does.
    """
    for url in job.candidates(".json"):
        try:
            value = parse_json(job.read(url))
            if isinstance(value, list):
                raise Refused("article.form", "it is a list of sentences; import it as pmc_inline_sentences")
            paper = _published(value)
            name = name_of(url, paper.info.get("pmc"))
            job.begin(name)
        except Refused as refused:
            job.refuse("article", url, refused)
            continue
        facts = {ours: paper.info[theirs] for theirs, ours in _IDS.items() if isinstance(paper.info.get(theirs), str)}
        places = cited(job, name, paper.text, paper.img_ref)
        write(job, url, Article(name, job.facts_of(name, facts), paper.text, places))


def write(job: Import, url: str, article: Article) -> None:
    """Give an article a figure for each id that it cites, in the order of citing, and write it."""
    article.figures = [job.figure(article.name, one) for one in ids_of(article.cited)]
    job.article(article, origin=url)


def ids_of(places: list[Cited]) -> list[str]:
    """Return the ids that are cited, each once."""
    return list(dict.fromkeys(one for place in places for one in place.ids))


def name_of(url: str, pmc: Any) -> str:
    """Return what an article is called: its file's name if that is a PMCID, else the PMCID that it states."""
    stem = stem_of(url)
    stated = re.fullmatch(r"(?:PMC)?(\d{1,12})", str(pmc or ""))
    if re.fullmatch(r"PMC\d+(?:\.\d+)?", stem) or not stated:
        return stem
    return f"PMC{stated[1]}"


def _published(value: Any) -> Published:
    try:
        return Published.model_validate(value)
    except pydantic.ValidationError as fault:
        where = ".".join(map(str, fault.errors()[0]["loc"])) or "paper"
        raise Refused("article.form", f"{where}: {fault.errors()[0]['msg'].lower()}") from fault
