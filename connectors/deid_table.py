"""The table of PS3.15 Table E.1-1: what must happen to which attribute; data of an installed package.

The package `dicom-anonymizer` (BSD) carries the table of several editions of the standard as lists of tags. The newest
is read as text and never run, and nothing else of that package is used.
"""

import ast
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from medloom.schemas.errors import ConfigError

_FILE = re.compile(r"dicomfields_(\d{4}[a-e]?)\.py")
_LIST = re.compile(r"([A-Z]+(?:_[A-Z]+)*)_TAGS")
CURVE_GROUPS, OVERLAY_GROUPS = 0x5000, 0x6000


@dataclass(frozen=True)
class Table:
    """The rows of the Basic Application Level Confidentiality Profile.

    Attributes:
        edition: of the standard, such as "2026c".
        codes: {tag: action code}: "X" remove, "Z" empty or dummy, "D" dummy, "U" new UID, compounds such as "X/Z/D".
        masks: (tag, mask, code) of repeating groups: a tag is meant when `tag & mask == masked tag`.
    """

    edition: str
    codes: Mapping[int, str]
    masks: tuple[tuple[int, int, str], ...]

    def code(self, tag: int) -> str:
        """Return the action code of an attribute, "" when the table does not name it."""
        found = self.codes.get(tag)
        if found is None:
            found = next((code for masked, mask, code in self.masks if tag & mask == masked), "")
        return found


@cache
def load() -> Table:
    """Return the table of the newest edition that is installed.

    Raises:
        ConfigError: the package that carries it is missing, or holds no table that can be read.
    """
    found = importlib.util.find_spec("dicomanonymizer")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "de-identifying needs the table of PS3.15 E.1-1, which the package dicom-anonymizer carries; "
            "install medloom[deid]"
        )
    folder = Path(found.submodule_search_locations[0]) / "dicom_anonymization_databases"
    editions = {m[1]: path for path in folder.glob("*.py") if (m := _FILE.fullmatch(path.name))}
    if not editions:
        raise ConfigError("the installed dicom-anonymizer carries no table of PS3.15 E.1-1; install medloom[deid] anew")
    newest = max(editions)
    return _parse(newest, editions[newest].read_text())


def _parse(edition: str, text: str) -> Table:
    """Return the table that a module's assignments `X_Z_TAGS = [(group, element), …]` spell."""
    codes: dict[int, str] = {}
    masks: list[tuple[int, int, str]] = []
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        named = _LIST.fullmatch(node.targets[0].id)
        if named is None or named[1] == "ALL":
            continue
        code = named[1].replace("U_STAR", "U*").replace("_", "/")
        for row in ast.literal_eval(node.value):
            tag = row[0] << 16 | row[1]
            if len(row) == 2:
                codes[tag] = code
            else:
                masks.append((tag, row[2] << 16 | row[3], code))
    if len(codes) < 600:
        raise ConfigError(f"the table of edition {edition} in dicom-anonymizer is not of the form that is known here")
    return Table(edition, MappingProxyType(codes), tuple(masks))
