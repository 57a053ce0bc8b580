"""Grounding: whether a question and its answer rest on the evidence they name, decided on text alone.

Each check is pure and says what it saw, so that a task can refuse by a fixed reason and a test can count what each
check catches. English wording only: a text in another language passes no polarity check it should not pass, but cues
of negation in it are not seen.
"""

import re
from collections import Counter
from collections.abc import Iterable

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+")
_ARTICLES = frozenset({"a", "an", "the"})
# Words that ask and name nothing: all others of a question must stand in its evidence, sides and numbers included.
_ASKING = frozenset(
    re.findall(
        r"\w+",
        "which what where how when is are was were be been being do does did has have had can could of in on at"
        " by with from to for as and or this that these those here there it its image images picture figure shown"
        " show shows seen see visible used use imaging technique modality method examination examine examined"
        " obtained obtain made make taken plane orientation view acquired acquisition sequence weighting weighted"
        " stain stained staining dye section prepared prepare magnification large big size long wide measure"
        " measures measured dimensions diameter finding findings lesion abnormality structure structures feature"
        " located location lie lies found place site side body part region arrow arrows arrowhead arrowheads mark"
        " marks marked point points pointing indicate indicates indicated identify identified name kind type"
        " called patient into anatomical mr",
    )
)

# What a question about an image must not speak of: the text it was made from.
_TEXT_WORDS = re.compile(
    r"\b(?:captions?|legends?|articles?|papers?|publications?|manuscripts?|authors?|texts?|passages?|sentences?"
    r"|paragraphs?|excerpts?|reports?|mentioned|stated|according to)\b|\bfig(?:ures?|s)?\b\.?\s*\d",
    re.IGNORECASE,
)

# Negation by clause, after NegEx (Chapman et al. 2001): a cue before the phrase or after it, unless a pseudo-cue
# covers it, and only within the clause that holds the phrase.
_CLAUSE_END = re.compile(
    r"[;:.!?](?=\s|$)|\b(?:but|however|although|though|whereas|except|apart from|aside from|which|revealing|showing)\b",
    re.IGNORECASE,
)
_PSEUDO = re.compile(
    r"\b(?:no (?:significant |interval |further |apparent )?(?:change|increase|decrease)|not only|no longer than"
    r"|without (?:any )?(?:change|difficulty|delay|(?:intravenous |iv |i\.v\. )?contrast)"
    r"|(?:not|cannot|can not|could not) (?:be )?(?:necessarily )?"
    r"(?:excluded?|ruled? out)|gram[- ]negative|no doubt|not to scale|no\.\s?\d+)",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"\b(?:no|not|without|none|never|neither|nor|absence of|absent|lack(?:s|ed|ing)?(?: of)?|negative for|free of"
    r"|den(?:y|ies|ied)|exclud(?:e|es|ed|ing)|rul(?:e|es|ed|ing) out|fail(?:s|ed)? to|resolution of|disappearance of"
    r"|cannot|can't|didn't|doesn't|wasn't|weren't|isn't)\b",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"^[\w\s,()/-]{0,40}?\b(?:(?:is|are|was|were|has been|have been|could) (?:also )?(?:not|absent|excluded|ruled out"
    r"|negative|no longer|never)|not (?:seen|found|detected|identified|visible|observed|present|shown)|absent"
    r"|unlikely|resolved|disappeared)\b",
    re.IGNORECASE,
)


def tokens(text: str) -> tuple[str, ...]:
    """Return the lower-case words and numbers of `text` without articles, by which answers are compared."""
    return tuple(t for t in _TOKEN.findall(text.lower()) if t not in _ARTICLES)


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of shared tokens, 0..1, as in SQuAD (Rajpurkar et al. 2016); 0 when either has none."""
    got, wanted = Counter(tokens(answer)), Counter(tokens(reference))
    shared = sum((got & wanted).values())
    return 2 * shared / (sum(got.values()) + sum(wanted.values())) if shared else 0.0


def leaks(question: str, answers: Iterable[str]) -> bool:
    """Whether `question` says one of `answers` (the answer, and other words for it) as a run of whole tokens."""
    said = tokens(question)
    return any(_holds_run(said, tokens(answer)) for answer in answers)


def _holds_run(said: tuple[str, ...], run: tuple[str, ...]) -> bool:
    return bool(run) and any(said[i : i + len(run)] == run for i in range(len(said) - len(run) + 1))


def well_formed(question: str, *, fewest_words: int = 4, most_words: int = 40) -> bool:
    """Whether `question` is one line, one question, ends with "?" and has a sensible length."""
    words = question.split()
    one = "\n" not in question and question.count("?") == 1 and question.endswith("?")
    return one and fewest_words <= len(words) <= most_words


def refers_to_text(question: str) -> bool:
    """Whether `question` speaks of the text behind it (a caption, a figure's number) and not of the image."""
    return _TEXT_WORDS.search(question) is not None


def ungrounded(question: str, evidence: str) -> tuple[str, ...]:
    """Return the words and numbers that `question` names and `evidence` does not: what a model made up.

    Strict on purpose: a synonym counts as made up. An organ that the sentence never named ("the cyst in the liver" of a
    kidney stone) passes every other check, the round trip included, since the answer is still the only one at hand.
    """
    known = {_stem(t) for t in tokens(evidence)}
    return tuple(dict.fromkeys(t for t in tokens(question) if t not in _ASKING and _stem(t) not in known))


def _stem(token: str) -> str:
    """Return `token` without the ending of a plural."""
    return token.removesuffix("s") if len(token) > 3 and not token.endswith("ss") else token


def negated(evidence: str, start: int, end: int) -> bool:
    """Whether the clause of `evidence` around `evidence[start:end]` says that it is absent.

    Offsets are half-open and count characters. "No mass, but a cyst (arrow)" negates the mass and not the cyst.
    """
    left, right = _clause(evidence, start, end)
    before = _PSEUDO.sub(lambda m: "~" * len(m.group()), evidence[left:start])
    after = _PSEUDO.sub(lambda m: "~" * len(m.group()), evidence[end:right])
    return _BEFORE.search(before) is not None or _AFTER.search(after) is not None


def _clause(evidence: str, start: int, end: int) -> tuple[int, int]:
    """Return the half-open span of the clause that holds [start, end)."""
    bounds = [m.span() for m in _CLAUSE_END.finditer(evidence) if m.end() <= start or m.start() >= end]
    left = max((stop for _, stop in bounds if stop <= start), default=0)
    right = min((begin for begin, _ in bounds if begin >= end), default=len(evidence))
    return left, right
