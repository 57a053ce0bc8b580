"""Import: foreign data as JATS articles and figure files, which every recipe of papers builds like any other."""

from typing import Any

from medloom.pipelines import imports
from medloom.pipelines.export import form
from medloom.pipelines.export import forms as forms_of
from medloom.pipelines.imports.job import Import
from medloom.pipelines.new_folder import new_folder
from medloom.schemas.errors import ConfigError, GateError


def forms() -> dict[str, str]:
    """Return what each form is, by name: the modules of `pipelines/imports` that hold a function `read`."""
    return forms_of(imports, "read")


def import_(name: str, source: str, to: str, *, copies: str = "") -> dict[str, Any]:
    """Read a folder of the form `name` into a new folder; return {"form", "counts": {what: in, made, refused}}.

    `to` holds `papers/` (the `source=` of a recipe of papers), `refused.jsonl` (a row for each thing refused, with the
    reason) and `import.json` (the counts). The same source gives the same bytes.

    Args:
        copies: folder of articles and figure files, for a form that holds none of their words.

    Raises:
        ConfigError: no such form, or `to` is not empty.
        SourceError: there is no folder at `source`, or it holds no file.
        GateError: nothing could be made; nothing is written.
    """
    read = form(name, imports, "read")
    if copies and name != "stand_off":
        raise ConfigError(f"--source belongs to the form stand_off; {name} holds its text and pictures itself")
    with new_folder(to) as store:
        job = Import(name, source, store, copies)
        read(job)
        done = job.finish()
        if not job.made["article"] and not job.made["example"]:
            told = ", ".join(
                f"{n} {reason}" for counts in done["counts"].values() for reason, n in counts["refused"].items()
            )
            raise GateError(f"nothing at {source} could be read as {name}: {told or 'no file of that form'}")
    return done
