"""Case reports: whose story a section tells, and which part of it a sentence is: history, findings, diagnosis …

Rules over titles and words, no model. A section whose title names a part is that part as a whole; in one that tells
the whole case, sentences are sorted by their words, and one that says nothing goes on with the part before it. Titles
are read in English, Portuguese, Spanish, French and German, sentences in English alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from medloom.connectors.sentences import sentence_spans

ROLES = ("history", "findings", "diagnosis", "treatment", "follow-up")

_NUMBER = r"^(?:\d+(?:\.\d+)*\.?\s*|[IVX]+\.\s+)?"
_TITLES = {  # a section's title, without its number, to the part that it is
    "follow-up": r"follow[- ]?ups?\b|outcomes?\b|(?:clinical|postoperative|post-operative|hospital) course|"
    r"seguimento|seguimiento|evolu[çc](?:ão|ión)|suivi|évolution|verlauf|nachsorge",
    "treatment": r"treatments?\b|therap(?:y|eutic \w+)|managements?\b|interventions?\b|operati(?:on|ve technique)|"
    r"surgical (?:technique|procedure|treatment)|surgery\b|tratamento|tratamiento|traitement|therapie|behandlung",
    "diagnosis": r"(?:final |differential |provisional |clinical |definitive )?diagnos(?:is|es|e)\b|"
    r"diagnóstico (?:final|diferencial)?$|diagnostic (?:conclusion|final)|endgültige diagnose",
    "findings": r"(?:physical |clinical |imaging |radiolog\w+ |laboratory |diagnostic |patholog\w+ |histopatholog\w+ |"
    r"intraoperative |operative |endoscopic |microscopic |further )*(?:findings?|examinations?|assessments?|"
    r"investigations?|imaging|work-?up|tests?|studies)\b|exames?\b|exámenes|achados|hallazgos|examens?\b|befunde?\b",
    "history": r"(?:clinical |medical |past |family |patient |present |case )*histor(?:y|ies)\b|"
    r"patient (?:information|characteristics)|presenting (?:complaint|concern|symptom)s?|chief complaints?|"
    r"anamnes(?:is|e)|hist[óo]ria(?: clínica)?|antécédents|vorgeschichte",
}
_ROLE_OF_TITLE = {
    role: re.compile(rf"{_NUMBER}(?:{words})(?:\s+(?:and|e|y|et|und|of|do|del|de|der)\b.*)?$", re.IGNORECASE)
    for role, words in _TITLES.items()
}
_CASE_TITLE = re.compile(
    rf"{_NUMBER}(?:(?:illustrative |clinical )?(?:case|patient)s?(?: (?:presentations?|reports?|descriptions?|"
    r"summar(?:y|ies)|series|vignettes?))?(?: and (?:managements?|outcomes?|discussion|reviews?\b.*|literature\b.*))?|"
    r"relatos? d[eo]s? casos?|descri[çc](?:ão|ión) d[eo]l? casos?|presentaci[oó]n d[eo]l? casos?|casos? clínicos?|"
    r"cas cliniques?|observations?|fall(?:bericht|beschreibung|vorstellung)|kasuistik)$",
    re.IGNORECASE,
)
_ORDINALS = {
    name: i + 1
    for i, names in enumerate((
        "one first i um primeiro uno primer un premier", "two second ii dois segundo dos deux deuxième",
        "three third iii três terceiro tres tercer trois troisième", "four fourth iv quatro cuatro quatre",
        "five fifth v cinco cinq", "six sixth vi seis", "seven seventh vii sete siete sept",
        "eight eighth viii oito ocho huit", "nine ninth ix nove nueve neuf", "ten tenth x dez diez dix",
    ))
    for name in names.split()
}  # fmt: skip
_PATIENT_NUMBER = re.compile(
    rf"{_NUMBER}(?:case|patient|caso|paciente|cas|fall)s?\s*(?:report|presentation|description|study|no\.?|number|#)?\s*"
    r"(?P<number>\d{1,2}|[ivx]{1,4}|one|two|three|four|five|six|seven|eight|nine|ten)\b(?!\s*(?:-|to\b|and\b|–))"
    rf"|{_NUMBER}(?:the\s+)?(?P<ordinal>first|second|third|fourth|fifth|sixth)\s+(?:case|patient)\b",
    re.IGNORECASE,
)

# What the words of a sentence say; the first that matches decides.
_CUES = tuple((role, re.compile(words, re.IGNORECASE | re.VERBOSE)) for role, words in (
    ("diagnosis", r"""
        \b(?:final|definitive|definite|histo(?:patho)?logical|pathological|clinical|correct|initial)\ diagnosis\b
        | \bdiagnos(?:is|es)\ (?:of|was|is|were|as|:) | \bdiagnosed\ (?:as|with|to)\b | \b(?:was|were|been)\ diagnosed\b
        | \b(?:confirmed|established|led\ to|made|reached|suggested)\ the\ diagnosis\b
        | \b(?:consistent|compatible)\ with\ (?:a\ |an\ |the\ )?
          (?:diagnosis|metasta\w+|\w*(?:oma|itis|osis|emia|cancer|syndrome|disease))\b
    """),
    ("follow-up", r"""
        \bfollow(?:ed|ing)?[-\ ]?up\b | \b(?:was|were)\ discharged\b | \bdischarged\ (?:home|on|from)\b | \bdied\b
        | \bpassed\ away\b | \brecover(?:y|ed)\b | \buneventful\b | \brecurrence\b | \bsymptom[-\ ]free\b
        | \basymptomatic\ (?:at|after|since)\b | \b(?:days?|weeks?|months?|years?)\ later\b
        | \b(?:days?|weeks?|months?|years?)\ after\ (?:the\ )?(?:surgery|operation|treatment|discharge|resection)\b
        | \bremain(?:s|ed)\ (?:well|stable|free|disease)\b | \b(?:alive|doing)\ well\b | \bpost-?operative\ course\b
    """),
    ("treatment", r"""
        \bunderwent\b(?!.{0,40}\b(?:CT|MRI|imaging|scan|biopsy|examination|ultraso\w+|endoscopy|radiograph\w*)\b)
        | \b(?:was|were)\ (?:treated|resected|excised|removed|started\ on|given|administered|operated|intubated)\b
        | \breceived\b | \btreatment\ (?:was|with|consisted)\b | \bchemotherap\w+ | \bradiotherap\w+ | \bprescribed\b
        | \b\w+ectomy\ was\ performed\b | \btherapy\ (?:was|with)\b | \bsurg(?:ery|ical\ \w+)\ was\ performed\b
    """),
    ("findings", r"""
        \bexamination\b | \bauscultation\b | \bpalpa(?:tion|ble|ted)\b | \b(?:CT|MRI|MR|PET|CTA|MRA|ECG|EEG|EMG)\b
        | \btomograph\w+ | \bmagnetic\ resonance\b | \bultraso\w+ | \bsonograph\w+ | \bradiograph\w* | \bX-ray\w*
        | \bscans?\b | \bimag(?:ing|es?)\b | \bbiops\w+ | \bhistolog\w+ | \bhistopatholog\w+ | \bimmunohisto\w+
        | \bmicroscop\w+ | \blaborator\w+ | \bblood\ (?:tests?|counts?|pressure)\b | \bserum\b
        | \b(?:mg|g|µg|ng|mmol|U|IU)/d?L\b | \b\w*endoscop\w+ | \b\w+oscopy\b | \bechocardiogra\w+ | \bangiogra\w+
        | \b(?:revealed|showed|demonstrated|disclosed|depicted)\b | \bwithin\ normal\b | \bFigure\b | \bFigs?\.
    """),
    ("history", r"""
        \b(?:year|month|week|day)s?[-\ ]old\b | \bpresented\ (?:to|with|at)\b | \bpresenting\ with\b | \bcomplain\w*
        | \bhistory\ of\b | \bmedical\ history\b | \bfamily\ history\b | \b(?:was|were)\ (?:referred|admitted)\b
        | \bdenied\b | \bsmok(?:er|ing|ed)\b | \ballerg\w+
    """),
))  # fmt: skip


@dataclass(frozen=True)
class CasePart:
    """Sentences of one paragraph that tell one part of one patient's story.

    Attributes:
        par_id: of the paragraph.
        start, end: half-open character offsets into its text.
        role: one of `ROLES`.
        patient: 1 for the first or only patient of the article.
    """

    par_id: str
    start: int
    end: int
    role: str
    patient: int


def mark_sections(sections: list[dict[str, Any]]) -> None:
    """Fill "role" and "patient" of the rows of "section" of a case report, in place.

    The role of a section that tells a whole case is "case"; that of one that tells of no patient stays "".
    """
    patient = 0
    stories: dict[tuple[str, ...], tuple[str, int]] = {}
    for section in sections:
        path = tuple(section["path"])
        above = next((stories[path[:n]] for n in range(len(path) - 1, 0, -1) if path[:n] in stories), ("", 0))
        number = patient_number(section["title"])
        role = role_of_title(section["title"])
        if number:
            patient, role = number, role or "case"
        elif not above[0] and role == "case":
            patient = max(patient, 1)
        elif not above[0] and role not in ROLES:
            continue
        whose = number or above[1] or max(patient, 1)
        section["role"] = role or above[0]
        section["patient"] = whose
        stories[path] = (section["role"], whose)


def role_of_title(title: str) -> str:
    """Return the part that a section's title names, "case" for the title of a whole case, else ""."""
    title = title.strip(" .:")
    if _CASE_TITLE.match(title):
        return "case"
    return next((role for role, names in _ROLE_OF_TITLE.items() if names.match(title)), "")


def patient_number(title: str) -> int:
    """Return which patient a section's title is about ("Case 2", "Second patient"), 0 where it does not say."""
    match = _PATIENT_NUMBER.match(title.strip())
    if not match:
        return 0
    said = (match["number"] or match["ordinal"]).lower()
    return int(said) if said.isdigit() else _ORDINALS.get(said, 0)


def role_of_sentence(sentence: str) -> str:
    """Return the part of a story that the words of an English sentence say, "" where they say none."""
    return next((role for role, cue in _CUES if cue.search(sentence)), "")


def case_parts(
    sections: Iterable[Mapping[str, Any]], paragraphs: Iterable[Mapping[str, Any]], *, lang: str
) -> list[CasePart]:
    """Return the story of every patient in the order of the paper; sentences of one part stand together.

    Args:
        sections: rows of "section", marked by `mark_sections`.
        paragraphs: rows of "paragraph".
        lang: primary language subtag; sentences are sorted in "en" alone, others have the parts of their titles.
    """
    told = {section["sec_id"]: section for section in sections if section["patient"]}
    before: dict[int, str] = {}
    parts: list[CasePart] = []
    for paragraph in paragraphs:
        section = told.get(paragraph["sec_id"])
        if section is None or paragraph["where"] != "body" or not paragraph["text"]:
            continue
        role, whose = section["role"], section["patient"]
        for start, end in _spans(paragraph["text"]):
            if role in ROLES:
                part = role
            elif lang == "en":
                part = role_of_sentence(paragraph["text"][start:end]) or before.get(whose, "history")
            else:
                continue
            before[whose] = part
            last = parts[-1] if parts else None
            if last and (last.par_id, last.role, last.patient) == (paragraph["par_id"], part, whose):
                parts[-1] = CasePart(last.par_id, last.start, end, part, whose)
            else:
                parts.append(CasePart(paragraph["par_id"], start, end, part, whose))
    return parts


def _spans(text: str) -> list[tuple[int, int]]:
    """Return the sentences of a text, each with the white space after it."""
    starts = [0, *(start for start, _ in sentence_spans(text)[1:])]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))
