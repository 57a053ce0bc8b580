"""PMC-Inline as RadFM's loader reads it, read."""

from typing import Any

import pydantic

from medloom.pipelines.imports.articles import Article
from medloom.pipelines.imports.job import Import, parse_json
from medloom.pipelines.imports.pmc_inline import name_of, write
from medloom.pipelines.imports.references import cited, end_of_words
from medloom.schemas.errors import Refused


class Sentence(pydantic.BaseModel):
    """One sentence; its ids are checked one by one."""

    model_config = pydantic.ConfigDict(strict=True)

    text: str
    img_ref: list[Any] = []


def read(job: Import) -> None:
    """PMC-Inline as RadFM's loader reads it: every `*.json` that is a list of sentences with the ids they cite.

    Sentences are joined as they stand, with a space where none divides them. The form does not say which words mean a
    picture, and nothing is guessed: an empty cross-reference stands before the full stop of the sentence. Licences as
    in the form `pmc_inline`.
    """
    for url in job.candidates(".json"):
        try:
            value = parse_json(job.read(url))
            if not isinstance(value, list):
                raise Refused("article.form", "it is no list of sentences; import a paper with info as pmc_inline")
            name = name_of(url, None)
            job.begin(name)
        except Refused as refused:
            job.refuse("article", url, refused)
            continue
        text, entries = _joined(job, name, value)
        write(job, url, Article(name, job.facts_of(name), text, cited(job, name, text, entries)))


def _joined(job: Import, name: str, sentences: list[Any]) -> tuple[str, list[Any]]:
    """Return the text of sentences, and an entry for each id at the end of its sentence's words."""
    text, entries = "", list[Any]()
    pieces: list[str] = []
    size, is_apart = 0, True
    for number, value in enumerate(sentences):
        try:
            sentence = Sentence.model_validate(value)
        except pydantic.ValidationError as fault:
            where = ".".join(map(str, fault.errors()[0]["loc"])) or "sentence"
            refused = Refused("sentence.form", f"{where}: {fault.errors()[0]['msg'].lower()}")
            job.refuse("sentence", f"{name}:{number}", refused)
            continue
        job.made["sentence"] += 1
        said = sentence.text if is_apart or sentence.text[:1].isspace() else f" {sentence.text}"
        at = size + end_of_words(said)
        entries += [{"id": one, "start": at, "end": at} for one in sentence.img_ref]
        pieces.append(said)
        size += len(said)
        is_apart = said[-1:].isspace() if said else is_apart
    text = "".join(pieces)
    return text, entries
