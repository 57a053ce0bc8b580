"""Pictures: the picture files of a source, by the names under which articles may call them."""

import re
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines.sources.listing import OBJECT
from medloom.schemas.build import Build

_NAME = r"(?s)^(?:(?P<folder>.*)/)?(?P<stem>[^/]*)\.(?P<ending>[^./]*)$"
FORMS = {"jpg": 0, "jpeg": 0, "png": 0, "tif": 1, "tiff": 1, "gif": 2}  # by ending: how good a file is as a figure
_PICTURE = pa.schema([
    *[(f"picture_{field.name}", field.type) for field in OBJECT],
    ("in_folder", pa.string()), ("name", pa.string()), ("stem", pa.string()), ("form", pa.int32()),
])  # fmt: skip


class Pictures:
    """The picture files of a listing, found by the stem of their name."""

    def __init__(self, listing: pa.Table):
        self._listing = listing

    @cached_property
    def _rows(self) -> pa.Table:
        """The pictures' rows with the parts of their names; a source of scans never asks for them."""
        parts = pc.extract_regex(self._listing["url"], pattern=_NAME)
        ending = pc.utf8_lower(pc.struct_field(parts, "ending"))
        form = pc.index_in(ending, pa.array(list(FORMS)))
        hidden = pc.starts_with(pc.struct_field(parts, "stem"), ".")
        is_picture = pc.and_(pc.and_(pc.is_valid(form), pc.greater(self._listing["size"], 0)), pc.invert(hidden))
        return self._listing.append_column("parts", parts).filter(is_picture)

    @property
    def stems(self) -> set[str]:
        """The stems of their names."""
        return set(pc.unique(pc.struct_field(self._rows["parts"], "stem")).to_pylist())

    def among(self, stems: pa.Array) -> pa.Table:
        """Return those of the stems as rows of `_PICTURE`: folder, name, stem, and how good the form is as a figure."""
        found = self._rows.filter(pc.is_in(pc.struct_field(self._rows["parts"], "stem"), stems))
        rows = []
        for row in found.to_pylist():
            part = row["parts"]
            form = FORMS[part["ending"].lower()] + (3 if "thumb" in part["stem"].lower() else 0)
            rows.append({
                **{f"picture_{column}": row[column] for column in OBJECT.names}, "in_folder": part["folder"] or "",
                "name": f"{part['stem']}.{part['ending']}", "stem": part["stem"], "form": form,
            })  # fmt: skip
        return pa.Table.from_pylist(rows, schema=_PICTURE)


def papers_showing(build: Build, pictures: Pictures) -> set[str]:
    """Return the keys of the build's articles with a figure that one of the picture files may be."""
    stems = pictures.stems
    showing: set[str] = set()
    for rows in build.parts("figure", ["article_key", "media"]) if stems else ():
        showing |= {
            row["article_key"]
            for row in rows.to_pylist()
            if any(m["href"] and not stems.isdisjoint(names_of(base_of(m["href"]))) for m in row["media"])
        }
    return showing


def base_of(href: str) -> str:
    """Return the file name in an href: the last part of a path, an `info:doi/…` or a URL, without "journal."."""
    base = href.rpartition("/")[2]
    return base.removeprefix("journal.")


def names_of(base: str) -> list[str]:
    """Return the stems of the files that `base` may mean: itself (it has no extension), or without its extension."""
    return sorted({base, re.sub(r"\.[A-Za-z]{2,4}$", "", base)})
