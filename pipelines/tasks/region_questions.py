"""Questions about the classes of a scan's masks: volume, side, presence and which is larger, open and with choices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from medloom.pipelines.tasks.header_questions import CHOOSE, LETTERS
from medloom.pipelines.tasks.referring import BOX_IS, is_alone
from medloom.pipelines.tasks.region_facts import is_larger, nearby_numbers, whole
from medloom.pipelines.tasks.region_words import (
    box_words,
    capital,
    none_of,
    spoken,
    the,
    volume_words,
)
from medloom.pipelines.tasks.regions import Classes, classes_of, mirrored, said, some
from medloom.pipelines.tasks.rows import Rows, chosen, conversation, shuffled
from medloom.pipelines.unit import UnitView
from medloom.schemas.ask import Ask
from medloom.schemas.errors import Refusal
from medloom.schemas.example import Example
from medloom.schemas.medium import Region

Kind = Literal["volume", "side", "presence", "larger"]
Form = Literal["choice", "open"]

LEAST_VOXELS = 100  # below it, a volume is mostly where its edge was drawn
VOLUME = (
    "What is the volume of {the}, in mL?",
    "How many millilitres does {the} measure?",
    "How large is {the}? Give its volume in mL.",
    "Estimate the volume of {the} in millilitres.",
)
SIDE = (
    "On which side of the patient is the {name} that the box {box} encloses?",
    "Is the {name} within {box} the patient's left or right one?",
    "Which {name} was boxed at {box}, the left or the right?",
)
PRESENCE = (
    "Can any of {the} be seen in this scan?",
    "Does this scan show {the}, or a part of it?",
    "Is {the} within what was scanned?",
    "Is there any of {the} here?",
)
WHICH_PRESENT = ("Which of these can be seen in this scan?", "One of these is in the scan. Which?")
LARGER = (
    "Which has the larger volume, {one} or {other}?",
    "Of {one} and {other}, which is larger?",
    "Compare {one} with {other}: which takes more space?",
)


@dataclass(frozen=True)
class RegionQuestions:
    """Rows whose answer the masks give; what the field of view cuts off is not measured.

    Of each volume, as many classes are asked for that are there as classes that were labelled and are not. A side is
    asked only where it is stated, and of a structure that is named by its box.

    Attributes:
        kinds: what is asked.
        forms: "choice" with options, where every letter is as often right; "open" without.
        most: questions of a kind and form for one volume, chosen by a hash where there are more.
    """

    task: ClassVar[str] = "region_vqa"
    version: ClassVar[str] = "1"
    asks: ClassVar[bool] = False

    kinds: tuple[Kind, ...] = ("volume", "side", "presence", "larger")
    forms: tuple[Form, ...] = ("choice", "open")
    most: int = 6

    def examples(self, unit: UnitView, fingerprint: str, ask: Ask | None) -> Iterator[Example | Refusal]:
        """Give the rows of a unit's volumes with masks."""
        rows = Rows(self, unit, fingerprint, "en", f"region_questions:{self.version}")
        make = {"volume": _volumes, "side": _sides, "presence": _presences, "larger": _larger}
        for classes in classes_of(unit):
            yield from mirrored(rows, classes)
            for kind in self.kinds:
                for form in self.forms:
                    yield from make[kind](_Asking(rows, classes, kind, form, self.most))


@dataclass(frozen=True)
class _Asking:
    """What the questions of one kind and form for one volume share."""

    rows: Rows
    classes: Classes
    kind: Kind
    form: Form
    most: int

    def seed(self, what: str = "") -> str:
        """Return the id of the row that asks about `what`."""
        return self.rows.id_of(self.ordinal(what))

    def ordinal(self, what: str) -> str:
        """Return what names a row within the unit."""
        return f"{self.classes.medium.key}|{self.kind}|{self.form}|{what}"

    def some(self, regions: Sequence[Region]) -> tuple[Region, ...]:
        """Return those that are asked about."""
        return some(regions, self.most, seed=self.seed())

    def example(
        self,
        what: str,
        question: str,
        answer: str,
        options: Sequence[str],
        about: Sequence[tuple[Region, str]],
        label: str = "",
    ) -> Example:
        """Return a row; in the form "choice" `answer` is one of `options`, which stand below the question in an order
        that the row's id decides.

        Args:
            about: classes that the question speaks of, with the words that mean them.
            label: of the answer, where it is shorter.
        """
        said_ = f"{capital(answer)}."
        if self.form == "choice":
            mixed = shuffled(options, seed=f"order|{self.seed(what)}")
            listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, mixed, strict=False)]
            question, said_ = "\n".join((f"{question} {CHOOSE}", *listed)), listed[mixed.index(answer)]
        key = self.classes.medium.key
        return self.rows.example(
            self.ordinal(what),
            turns=conversation([key], question, said_),
            labels=(label or answer,),
            regions=tuple(said(key, region, phrase) for region, phrase in about),
        )


def _volumes(asking: _Asking) -> Iterator[Example]:
    known = [r for r in whole(asking.classes.present, asking.classes.grid) if r.voxels >= LEAST_VOXELS]
    for region in asking.some(known):
        name, words = spoken(region.label), the(region.label)
        seed = asking.seed(name)
        options = [f"{number} mL" for number in nearby_numbers(region.volume_ml, seed=seed)]
        question = chosen(VOLUME, seed=seed).format(the=words)
        yield asking.example(name, question, volume_words(region.volume_ml), options, [(region, words)])


def _sides(asking: _Asking) -> Iterator[Example]:
    classes = asking.classes
    sided = [r for r in classes.present if r.label.side and is_alone(r, classes.medium.regions)]
    for region in asking.some(sided):
        seed = asking.seed(spoken(region.label))
        box = box_words(region.box, classes.grid.shape)
        question = f"{chosen(SIDE, seed=seed).format(name=region.label.name, box=box)} {BOX_IS}"
        yield asking.example(spoken(region.label), question, region.label.side, ("left", "right"), [(region, box)])


def _presences(asking: _Asking) -> Iterator[Example]:
    present, absent = asking.classes.present, asking.classes.absent
    if asking.form == "open":
        n = min(len(present), len(absent), max(1, asking.most // 2))
        for regions, seed in ((present, "yes"), (absent, "no")):
            for region in some(regions, n, seed=asking.seed(seed)):
                name, words = spoken(region.label), the(region.label)
                question = chosen(PRESENCE, seed=asking.seed(name)).format(the=words)
                answer = f"yes, {words} can be seen" if region.voxels else f"no, {none_of(region.label)}"
                about = [(region, words)] if region.voxels else []
                yield asking.example(name, question, answer, (), about, label=seed)
        return
    for region in asking.some(present):
        name = spoken(region.label)
        wrong = shuffled([spoken(r.label) for r in absent], seed=f"wrong|{asking.seed(name)}")[: len(LETTERS) - 1]
        if len(wrong) == len(LETTERS) - 1:
            question = chosen(WHICH_PRESENT, seed=asking.seed(name))
            yield asking.example(name, question, name, (name, *wrong), [(region, name)])


def _larger(asking: _Asking) -> Iterator[Example]:
    """Give questions about neighbours in an order by hash, each class at most twice, the larger as often first."""
    known = {spoken(r.label): r for r in whole(asking.classes.present, asking.classes.grid)}
    order = shuffled(list(known), seed=asking.seed())
    pairs = [pair for pair in pairwise(order) if _differ(known[pair[0]], known[pair[1]])]
    for first, second in pairs[: asking.most]:
        what = "|".join(sorted((first, second)))
        one, other = shuffled([first, second], seed=f"pair|{asking.seed(what)}")
        larger = known[max((one, other), key=lambda name: known[name].volume_ml)]
        words = [the(known[name].label) for name in (one, other)]
        question = chosen(LARGER, seed=asking.seed(what)).format(one=words[0], other=words[1])
        about = list(zip((known[one], known[other]), words, strict=True))
        yield asking.example(what, question, the(larger.label), words, about)


def _differ(one: Region, other: Region) -> bool:
    return is_larger(one, other) or is_larger(other, one)
