"""How much an object needs an attribute: the types 1, 1C, 2, 2C and 3 of its IOD, for choosing between X, Z and D.

The tables of PS3.3 come from highdicom's data files. Where an attribute stands in several modules the strictest counts.
"""

from functools import cache
from typing import Literal

Type = Literal["1", "1C", "2", "2C", "3"]
_STRICTEST: tuple[Type, ...] = ("1", "1C", "2", "2C", "3")
# For a standard SOP class that has no IOD of its own any more: the modules that composite images share.
_COMMON = (
    "patient", "general-study", "patient-study", "general-series", "frame-of-reference", "general-equipment",
    "general-image", "image-plane", "image-pixel", "sop-common",
)  # fmt: skip


@cache
def types_of(sop_class: str) -> dict[tuple[str, str], Type]:
    """Return {(keyword of the sequence around, "" at top level; keyword): type} of the IOD of a SOP class."""
    from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

    iod = get_sop_class_iod_map().get(sop_class)
    modules = [module["key"] for module in get_iod_module_map()[iod]] if iod else list(_COMMON)
    attributes = get_module_attribute_map()
    found: dict[tuple[str, str], Type] = {}
    for module in modules:
        for row in attributes.get(module, []):
            place = (row["path"][-1] if row["path"] else "", row["keyword"])
            if place not in found or _STRICTEST.index(row["type"]) < _STRICTEST.index(found[place]):
                found[place] = row["type"]
    return found


def type_of(sop_class: str, around: str, keyword: str) -> Type:
    """Return the type of an attribute inside the sequence `around` ("": at top level), "3" where the IOD has none."""
    return types_of(sop_class).get((around, keyword), "3")


@cache
def has_pixels(sop_class: str) -> bool:
    """Whether objects of a SOP class are images, so that one without pixel data is broken."""
    from highdicom._standard_utils import get_iod_module_map, get_sop_class_iod_map

    modules = get_iod_module_map().get(get_sop_class_iod_map().get(sop_class, ""), [])
    return any(module["key"] == "image-pixel" and module["usage"] == "M" for module in modules)


@cache
def needed(sop_class: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the keywords of type 1 and of type 2 at the top level of the mandatory modules of a SOP class."""
    from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map

    iod = get_sop_class_iod_map().get(sop_class)
    modules = [m["key"] for m in get_iod_module_map()[iod] if m["usage"] == "M"] if iod else []
    rows = [row for module in modules for row in get_module_attribute_map().get(module, []) if not row["path"]]
    first = frozenset(row["keyword"] for row in rows if row["type"] == "1")
    return first, frozenset(row["keyword"] for row in rows if row["type"] == "2") - first
