"""Verdict: what a check, a generator or a curator says of a subject; verdicts are added, never changed."""

from dataclasses import dataclass
from typing import Literal

Scope = Literal["medium", "example", "group", "query"]
Outcome = Literal["pass", "fail", "unsure"]


@dataclass(frozen=True)
class Verdict:
    """One statement about one subject.

    Attributes:
        subject: key, example_id or group that it is about; for scope "query", the predicate's text.
        digest: the subject's digest when it was judged, "" for a query.
        scope: what kind of thing the subject is.
        check, version: who judged by which rule.
        by: "rule", "model:<digest>" or "curator:<name>".
        outcome: "pass", "fail" or "unsure".
        reason: short.fixed.reason, "" for a pass.
        value: the measured value behind it, NaN where there is none.
        supersedes: sha256 of the verdict it replaces, "" for none.
    """

    subject: str
    digest: str
    scope: Scope
    check: str
    version: str
    by: str
    outcome: Outcome
    reason: str = ""
    value: float = float("nan")
    supersedes: str = ""
