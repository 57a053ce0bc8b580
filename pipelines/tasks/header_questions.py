"""HeaderQuestions: what the header of a scan says of it, asked with options and openly; no model is needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from medloom.pipelines.tasks.rows import Rows, chosen, conversation, shuffled
from medloom.pipelines.unit import MediumView, UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Evidence, Example

Form = Literal["choice", "open"]
Kind = Literal["modality", "plane"]

LETTERS = "ABCD"
MODALITIES = {  # DICOM PS3.3 C.7.3.1.1.1, those that our vocabulary knows; CR and DX look and are called the same
    "CT": "computed tomography (CT)",
    "MR": "magnetic resonance imaging (MRI)",
    "PT": "positron emission tomography (PET)",
    "US": "ultrasound",
    "CR": "radiography (X-ray)",
    "DX": "radiography (X-ray)",
    "MG": "mammography",
    "XA": "X-ray angiography",
    "NM": "scintigraphy",
}
PLANES = {"axial": "axial", "coronal": "coronal", "sagittal": "sagittal"}
# Answers that may both be called right are never offered together: mammograms and angiograms are X-ray images,
# positron emission tomography is nuclear medicine.
_KIN = ({"CR", "DX", "MG", "XA"}, {"PT", "NM"})

WORDINGS: dict[Kind, tuple[str, ...]] = {
    "modality": (
        "Which imaging modality is this?",
        "By which imaging technique was this made?",
        "What kind of imaging examination is shown here?",
        "Name the modality of this image.",
    ),
    "plane": (
        "In which plane was this acquired?",
        "What is the acquisition plane here?",
        "Which anatomical plane do these slices follow?",
        "Name the plane in which the slices were taken.",
    ),
}
CHOOSE = "Choose one and give its letter."


@dataclass(frozen=True)
class HeaderQuestions:
    """A row per medium, kind and form whose answer the header gives; what a header leaves open is not asked.

    Attributes:
        kinds: what is asked.
        forms: "choice" with up to four options, where every letter is as often right; "open" without.
    """

    task: ClassVar[str] = "header_vqa"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    kinds: tuple[Kind, ...] = ("modality", "plane")
    forms: tuple[Form, ...] = ("choice", "open")

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a scan's media; figures of papers have no header and give none."""
        if unit.article:
            return
        rows = Rows(self, unit, fingerprint, "en", f"header_questions:{self.version}")
        for key, medium in unit.media.items():
            for kind in self.kinds:
                known = _known(medium, unit, kind)
                if known:
                    for form in self.forms:
                        yield _example(rows, key, kind, form, known)


def _known(medium: MediumView, unit: UnitView, kind: Kind) -> str:
    """Return the class that the header states, "" when it states none that we can ask for."""
    stated = medium.modality if kind == "modality" else medium.plane
    stated = stated or str(unit.series.get(kind) or "")
    return stated if stated in (MODALITIES if kind == "modality" else PLANES) else ""


def _example(rows: Rows, key: str, kind: Kind, form: Form, answer: str) -> Example:
    ordinal = f"{key}|{kind}|{form}"
    seed = rows.id_of(ordinal)
    question = chosen(WORDINGS[kind], seed=seed)
    words = (MODALITIES if kind == "modality" else PLANES)[answer]
    said = f"{words[0].upper()}{words[1:]}."
    if form == "choice":
        options = _options(kind, answer, seed)
        listed = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
        question = f"{question} {CHOOSE}\n{listed}"
        said = f"{LETTERS[options.index(words)]}. {words}"
    evidence = Evidence(f"header:{rows.unit.unit}", 0, 0, f"{kind}: {answer}")
    return rows.example(ordinal, turns=conversation([key], question, said), labels=(answer,), evidence=(evidence,))


def _options(kind: Kind, answer: str, seed: str) -> list[str]:
    """Return the right answer among wrong ones, distinct, in an order that the example's id decides."""
    if kind == "plane":
        return shuffled(list(PLANES.values()), seed=f"order|{seed}")
    kin = next((names for names in _KIN if answer in names), {answer})
    others = list(dict.fromkeys(words for name, words in MODALITIES.items() if name not in kin))
    wrong = shuffled(others, seed=f"wrong|{seed}")[: len(LETTERS) - 1]
    return shuffled([MODALITIES[answer], *wrong], seed=f"order|{seed}")
