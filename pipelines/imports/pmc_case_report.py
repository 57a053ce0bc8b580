"""PMC-CaseReport, read."""

import ast
import io
from dataclasses import dataclass

from medloom.pipelines.csv_guard import unguarded
from medloom.pipelines.imports.articles import Article, Question
from medloom.pipelines.imports.csv_rows import Fields, csv_rows
from medloom.pipelines.imports.job import Import, is_safe
from medloom.pipelines.imports.references import cited, end_of_words
from medloom.schemas.errors import Refused

COLUMNS = ("PMC_id", "img_ref", "context", "question", "answer")
MAX_FIELD = 500_000  # characters; the longest articles have some 300,000
_MAX_LIST = 10_000


@dataclass(frozen=True)
class Row:
    """A question as the CSV has it; `inline` is "" where the file has no such column."""

    article: str
    ids: tuple[str, ...]
    context: str
    inline: str
    question: Question


def read(job: Import) -> None:
    """PMC-CaseReport: every `*.csv` with PMC_id, img_ref, context, question, answer (and inline), and the pictures.

    An article has the contexts of its rows as text, one that begins another only once, with an empty cross-reference
    before the full stop of `inline`; and each question with its answer as `<question-wrap>`, which the task
    `stated_questions` gives back. Apostrophes that guard a field are taken away if the folder is an export of ours.
    Licences as in the form `pmc_inline`.
    """
    found: dict[str, list[Row]] = {}
    origins: dict[str, str] = {}
    for url in job.candidates(".csv"):
        try:
            text = job.read(url).decode("utf-8-sig")
        except UnicodeDecodeError as fault:
            job.refuse("file", url, Refused("csv.encoding", f"byte {fault.start} is not UTF-8"))
            continue
        except Refused as refused:
            job.refuse("file", url, refused)
            continue
        for number, given in enumerate(csv_rows(job, url, io.StringIO(text, newline=""), COLUMNS), 2):
            try:
                row = _row(given, guarded=job.is_ours)
                if row in found.get(row.article, ()):
                    raise Refused("row.duplicate", "the same question stands in an earlier row")
            except Refused as refused:
                job.refuse("row", f"{url}:{number}", refused)
                continue
            found.setdefault(row.article, []).append(row)
            origins.setdefault(row.article, url)
            job.made["row"] += 1
    for name, rows in found.items():
        try:
            job.begin(name)
        except Refused as refused:
            job.refuse("article", name, refused)
            continue
        _write(job, name, rows, origins[name])


def _row(given: Fields, *, guarded: bool) -> Row:
    if None in given or any(given[name] is None for name in COLUMNS):
        raise Refused("row.columns", "it has more or fewer fields than the header")
    fields = {str(name): str(value or "") for name, value in given.items()}
    if max(map(len, fields.values())) > MAX_FIELD:
        raise Refused("row.large", f"a field is longer than {MAX_FIELD} characters")
    if guarded:
        fields = {name: unguarded(value) for name, value in fields.items()}
    article = fields["PMC_id"].strip()
    if not is_safe(article) or "_" in article:
        raise Refused("row.article", "PMC_id is no plain name such as PMC7500000")
    if not fields["question"].strip() or not fields["answer"].strip():
        raise Refused("row.empty", "the question or the answer is empty")
    ids = _ids(fields["img_ref"])
    question = Question(fields["question"], fields["answer"], ids)
    return Row(article, ids, fields["context"], fields.get("inline", ""), question)


def _ids(text: str) -> tuple[str, ...]:
    """Return the ids of a Python list of texts; nothing is evaluated but literals."""
    try:
        value = ast.literal_eval(text.strip()) if len(text) <= _MAX_LIST else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, list) or not all(map(is_safe, value)):
        raise Refused("row.img_ref", "img_ref is no list of plain names")
    return tuple(dict.fromkeys(value))


def _write(job: Import, name: str, rows: list[Row], url: str) -> None:
    text, entries = _assembled(rows)
    ids = dict.fromkeys(one for row in rows for one in row.ids)
    article = Article(
        name,
        {"article_type": "case-report", **job.facts_of(name)},
        text,
        cited(job, name, text, entries),
        [job.figure(name, one) for one in ids],
        [row.question for row in rows],
    )
    job.article(article, origin=url)


def _assembled(rows: list[Row]) -> tuple[str, list[dict[str, str | int]]]:
    """Return the text of an article out of its rows' contexts, and where each row's inline begins, once for each id."""
    whole = {row: row.context + _apart(row.context, row.inline) + row.inline for row in rows}
    known: dict[str, int] = {}
    text = ""
    for said in sorted(dict.fromkeys(whole.values()), key=len, reverse=True):
        if said.strip() and not any(other.startswith(said) for other in known):
            text += "\n\n" if text else ""
            known[said] = len(text)
            text += said
    places: dict[tuple[str, int], None] = {}
    for row in rows:
        base = next((at for said, at in known.items() if said.startswith(whole[row])), -1)
        if base >= 0 and row.inline.strip():
            start = base + len(whole[row]) - len(row.inline) + end_of_words(row.inline)
            places |= {(one, start): None for one in row.ids}
    return text, [{"id": one, "start": at, "end": at} for one, at in places]


def _apart(before: str, after: str) -> str:
    return " " if before and after and not before[-1].isspace() and not after[0].isspace() else ""
