"""Batches: many ids in one request, and when it is refused as a whole, the one at fault found by halving."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from medloom.schemas.errors import Refused, SourceError

T = TypeVar("T")

# Refusals that one id of many may have caused: a bad id, a body too large or cut, XML that is not to be trusted.
_ONE_AT_FAULT = ("http.status", "http.large", "http.truncated", "jats.")
MOST_FAULTS = 10  # so many ids refused by the service, one by one, and none accepted: it is not the ids


def batches(ids: Sequence[str], size: int) -> Iterator[tuple[str, ...]]:
    """Give `ids` in tuples of at most `size`, each id once, in order."""
    once = list(dict.fromkeys(ids))
    for start in range(0, len(once), size):
        yield tuple(once[start : start + size])


def by_halves(
    ids: Sequence[str], ask: Callable[[Sequence[str]], T], *, service: str
) -> Iterator[tuple[Sequence[str], T | Refused]]:
    """Give what `ask` returns for `ids`, in as few pieces as can be; an id that stands alone may come to a refusal.

    Raises:
        SourceError: the service refuses whatever it is asked.
    """
    pending = [tuple(ids)]
    accepted, faults = False, 0
    while pending:
        some = pending.pop()
        try:
            answer = ask(some)
        except Refused as refused:
            if not refused.reason.startswith(_ONE_AT_FAULT):
                what = f"{service} refuses what it is asked ({refused}); see that its address is right"
                raise SourceError(what) from refused
            if len(some) > 1:
                half = len(some) // 2
                pending += [some[half:], some[:half]]
                continue
            faults += refused.reason == "http.status"
            if not accepted and faults >= min(MOST_FAULTS, len(ids)) and len(ids) > 1:
                raise SourceError(
                    f"{service} refuses each of {faults} ids that it was asked for, one by one ({refused}); see that "
                    "the ids, the address and the key are right"
                ) from refused
            yield some, refused
        else:
            accepted = True
            yield some, answer
