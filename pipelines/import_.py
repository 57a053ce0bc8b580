"""Import: foreign data as articles with figure files, or as scans, which recipes build like any other source."""

import sys
from typing import Any

from medloom.pipelines import imports
from medloom.pipelines.export import form
from medloom.pipelines.export import forms as forms_of
from medloom.pipelines.imports.job import Import
from medloom.pipelines.new_folder import new_folder
from medloom.pipelines.recipe import fill
from medloom.schemas.errors import ConfigError, GateError


def forms() -> dict[str, str]:
    """Return what each form is, by name: the modules of `pipelines/imports` that hold a function `read`."""
    return forms_of(imports, "read")


def import_(
    name: str, source: str, to: str, *, copies: str = "", settings: dict[str, str] | None = None
) -> dict[str, Any]:
    """Read a folder of the form `name` into a new folder; return {"form", "counts": {what: in, made, refused}}.

    `to` holds `papers/` (the `source=` of a recipe of papers) or `scans/` (that of the recipe `scans`), `refused.jsonl`
    (a row for each thing refused, with the reason) and `import.json` (the counts). The same source gives the same
    bytes.

    Args:
        copies: folder of articles and figure files, for a form that holds none of their words.
        settings: of a form of volumes, what it does not say itself; see `stated_geometry`.

    Raises:
        ConfigError: no such form or setting, nothing says where voxels are, or `to` is not empty.
        SourceError: there is no folder at `source`, or it holds no file.
        GateError: nothing could be made; nothing is written.
    """
    read = form(name, imports, "read")
    if copies and name != "stand_off":
        raise ConfigError(f"--source belongs to the form stand_off; {name} holds its text and pictures itself")
    settable = getattr(sys.modules[read.__module__], "settings", None)
    if settings and settable is None:
        raise ConfigError(f"the form {name} has nothing that --set could fill")
    geometry = settable(**fill(settable, settings or {}, where=name, what="form")) if settable else None
    with new_folder(to) as store:
        job = Import(name, source, store, copies, geometry)
        read(job)
        done = job.finish()
        if not any(job.made[what] for what in ("article", "example", "volume", "image")):
            told = ", ".join(
                f"{n} {reason}" for counts in done["counts"].values() for reason, n in counts["refused"].items()
            )
            raise GateError(f"nothing at {source} could be read as {name}: {told or 'no file of that form'}")
    return done
