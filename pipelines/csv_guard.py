"""CSV fields that a spreadsheet would run as a formula: guarded when written, given back when read."""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")


def guarded(field: str) -> str:
    """Return `field` with an apostrophe before it if it begins as a formula does (`=`, `+`, `-`, `@`, tab, return).

    Apostrophes that stand before such a beginning get one more, so that `unguarded` gives back every text.
    """
    return f"'{field}" if _FORMULA.match(field) else field


def unguarded(field: str) -> str:
    """Undo `guarded`."""
    return field[1:] if _GUARDED.match(field) else field
