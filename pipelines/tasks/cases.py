"""Cases: each patient of a case report in order, part by part, and the diagnosis asked for from what came before it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from medloom.connectors.case_reports import ROLES, CasePart, case_parts
from medloom.connectors.sentences import sentence_spans
from medloom.pipelines.tasks.rows import Rows, chosen, language_of
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example, Part, Turn

WORDINGS = (
    "What is the diagnosis?",
    "Given this history and these findings, what is the diagnosis?",
    "Which diagnosis was made in this patient?",
    "State the diagnosis.",
)
# What a sentence says that the diagnosis is: the words after these, up to the end of their phrase.
_DIAGNOSIS = re.compile(
    r"\b(?:diagnosed (?:as|with|to have)|diagnos(?:is|es) (?:of|was|is|were|as)|diagnosis:|"
    r"(?:consistent|compatible) with(?: a diagnosis of| the diagnosis of)?)\s+"
    r"(?:having |suffering from |that of )?(?P<words>(?:an? |the )?(?P<name>[^.;:,()]{4,120}?))"
    r"(?=\s*(?:[.;:,(]|$)|\s+(?:was|were|is|are|and|by|based|in (?:the|this|our|a|\d)|at|on|which|that|with(?:out)?|"
    r"after|who|because|due|from|for|could|had|has)\b)",
    re.IGNORECASE,
)
_NO_DIAGNOSIS = re.compile(
    r"\b(?:no|not|without|differential|exclud\w+|ruled out|rule out|initial(?:ly)?|misdiagnosed|suspected|possible|"
    r"family|previous(?:ly)?|years ago|history of)\b",
    re.IGNORECASE,
)
_COMMON = frozenset((
    "disease", "syndrome", "lesion", "tumor", "tumour", "cancer", "infection", "acute", "chronic", "right", "left",
    "upper", "lower", "bilateral", "primary", "secondary", "severe",
))  # fmt: skip


@dataclass(frozen=True)
class Cases:
    """One row per patient of a case report: a document turn of the story's parts, each after its name.

    A figure stands before the part whose sentences first cite it. What tells of no patient (introduction, discussion)
    is left out. Labels are the parts that occur; `measured` says which patient of the article it is.

    Attributes:
        max_media: of one row; a figure beyond it is refused as a row.
    """

    task: ClassVar[str] = "case_report"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    max_media: int = 8

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give a row per patient, in the order of the paper."""
        if not unit.article.get("is_case_report"):
            return
        rows = Rows(self, unit, fingerprint, language_of(unit), f"cases:{self.version}")
        texts = _texts(unit)
        for patient, parts in _by_patient(unit).items():
            shown: list[str] = []
            said: list[Part] = []
            for number, part in enumerate(parts):
                for key in _cited(unit, part):
                    if key in shown:
                        continue
                    if len(shown) == self.max_media:
                        yield rows.refusal(key, "case.max_media", f"the patient has more than {self.max_media}")
                        continue
                    shown.append(key)
                    said.append(Part(media=key))
                text = texts[part.par_id][part.start : part.end].strip()
                is_new = number == 0 or parts[number - 1].role != part.role
                said.append(Part(text=f"{part.role.capitalize()}: {text}\n" if is_new else f"{text}\n"))
            yield rows.example(
                f"patient:{patient}", turns=(Turn("document", tuple(said)),),
                labels=tuple(role for role in ROLES if any(part.role == role for part in parts)),
                evidence=tuple(_evidence(texts, part) for part in parts),
                measured={"patient": float(patient), "media": float(len(shown))},
            )  # fmt: skip


@dataclass(frozen=True)
class CaseQuestions:
    """One question per patient: history, findings and figures from before the diagnosis, and the diagnosis as answer.

    The answer is what the first sentence that makes a diagnosis says, word for word, with that sentence as evidence.
    Refused as rows: "case.no_diagnosis", "case.leak" (the words of the answer stand in what comes before), and
    "case.no_figure" (no kept figure is cited before it).

    Attributes:
        max_media: figures shown; the first ones that the story cites.
    """

    task: ClassVar[str] = "case_diagnosis"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    max_media: int = 4

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give a row per patient, or the reason why there is none."""
        if not unit.article.get("is_case_report") or language_of(unit) != "en":
            return
        rows = Rows(self, unit, fingerprint, "en", f"case_questions:{self.version}")
        texts = _texts(unit)
        for patient, parts in _by_patient(unit).items():
            yield self._question(rows, texts, patient, parts)

    def _question(self, rows: Rows, texts: dict[str, str], patient: int, parts: list[CasePart]) -> Example | Refusal:
        subject = f"{rows.unit.unit}:{patient}"
        found = _diagnosis(texts, parts)
        if found is None:
            return rows.refusal(subject, "case.no_diagnosis", "no sentence of the patient's story makes a diagnosis")
        at, evidence, answer = found
        before = [part for part in parts[: at + 1] if part.role in ("history", "findings", "diagnosis")]
        pieces = [texts[p.par_id][p.start : min(p.end, evidence.start) if p is parts[at] else p.end] for p in before]
        context = " ".join(piece.strip() for piece in pieces if piece.strip())
        if _leaks(answer, context):
            return rows.refusal(subject, "case.leak", "the words of the diagnosis stand in the text before it")
        keys = list(dict.fromkeys(key for part in before for key in _cited(rows.unit, part, until=evidence)))
        if not keys:
            return rows.refusal(subject, "case.no_figure", "no kept figure is cited before the diagnosis")
        asked = chosen(WORDINGS, seed=rows.id_of(f"patient:{patient}"))
        question = (*(Part(media=key) for key in keys[: self.max_media]), Part(text=f"{context}\n{asked}".strip()))
        return rows.example(
            f"patient:{patient}", turns=(Turn("user", question), Turn("assistant", (Part(text=answer),))),
            labels=(answer.lower(),), evidence=(evidence,), measured={"patient": float(patient)},
        )  # fmt: skip


def _texts(unit: UnitView) -> dict[str, str]:
    return {paragraph["par_id"]: paragraph["text"] for paragraph in unit.paragraphs}


def _by_patient(unit: UnitView) -> dict[int, list[CasePart]]:
    patients: dict[int, list[CasePart]] = {}
    for part in case_parts(unit.sections, unit.paragraphs, lang=language_of(unit)):
        patients.setdefault(part.patient, []).append(part)
    return patients


def _cited(unit: UnitView, part: CasePart, *, until: Evidence | None = None) -> Iterator[str]:
    """Give the keys of kept media that the sentences of a part cite, in order; those after `until` are left out."""
    figures = {figure["fig_key"]: figure for figure in unit.figures}
    here = f"paragraph:{part.par_id}"
    end = until.start if until and until.where == here else part.end
    for mention in unit.mentions:
        cites = mention["par_id"] == part.par_id and part.start <= mention["start"] < min(end, part.end)
        if cites and mention["status"] == "resolved":
            for key in mention["fig_keys"]:
                if key in figures:
                    yield from (medium.key for medium in unit.media_of(figures[key]))


def _evidence(texts: dict[str, str], part: CasePart) -> Evidence:
    return Evidence(f"paragraph:{part.par_id}", part.start, part.end, texts[part.par_id][part.start : part.end])


def _diagnosis(texts: dict[str, str], parts: list[CasePart]) -> tuple[int, Evidence, str] | None:
    """Return (number of the part, the sentence, the words of the diagnosis) of the first that is made for certain."""
    for number, part in enumerate(parts):
        text = texts[part.par_id]
        for start, end in sentence_spans(text[part.start : part.end]) if part.role == "diagnosis" else ():
            sentence = text[part.start + start : part.start + end]
            match = _DIAGNOSIS.search(sentence)
            if match and not _NO_DIAGNOSIS.search(sentence[: match.end()]):
                where = f"paragraph:{part.par_id}"
                return number, Evidence(where, part.start + start, part.start + end, sentence), match["words"].strip()
    return None


def _leaks(answer: str, context: str) -> bool:
    """Whether a word that makes the diagnosis what it is stands in the text before it; one of common words leaks."""
    words = {word for word in re.findall(r"[^\W\d_]{5,}", answer.lower()) if word not in _COMMON}
    return not words or any(re.search(rf"\b{re.escape(word)}", context.lower()) for word in words)
