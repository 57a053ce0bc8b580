"""The commands `export` and `import`: releases in forms of others, and the way back."""

from typing import Annotated, Any

import typer

from medloom.pipelines.options import Json, Set, answer, parse_settings, print_json
from medloom.schemas.errors import ConfigError

Form = Annotated[str, typer.Argument(help="Name of a form; without one they are listed.")]
To = Annotated[str, typer.Option("--to", help="New, empty folder.")]

EXAMPLES = {
    "export": (
        "medloom export",
        "medloom export pmc_inline out/papers --to out/pmc_inline",
        "medloom export stand_off out/papers --to out/stand_off --split train",
        "medloom export nifti out/scans --to out/nifti",
        "medloom export out/scans --to nifti out/nifti",
    ),
    "import": (
        "medloom import pmc_oa downloads/pmc_oa --to out/imported",
        "medloom build pmc_inline --to out/papers --set source=out/imported/papers",
        "medloom import stand_off out/stand_off --source my-articles/ --to out/filled",
        "medloom import m3d downloads/M3D_Seg_npy --to out/m3d --set spacing_mm=5,0.8,0.8 --set orientation=LPS",
    ),
}


def register(app: typer.Typer) -> None:
    """Add the commands to the root command line."""
    for name, command in (("export", export), ("import", import_)):
        app.command(name, epilog="\n\n".join(("Examples:", *EXAMPLES[name])))(command)


def export(
    form: Form = "",
    data: Annotated[str, typer.Argument(help="Release folder, or build whose newest release is meant.")] = "",
    to: To = "",
    split: Annotated[str, typer.Option(help="Only this split, such as train; all of them without it.")] = "",
    as_json: Json = False,
) -> None:
    """Write the live part of a release in a form that others read, with counts, licences and whom to name.

    It may be said as FORM DATA --to FOLDER, or as DATA --to FORM FOLDER.

    Papers leave as text and figures, scans as volumes, masks and questions, each in the forms that have a place for
    them. What terms forbid to redistribute stays back; the form stand_off holds neither text nor pixels and lets it go.
    """
    from medloom.pipelines.export import export as run
    from medloom.pipelines.export import forms

    if not form:
        _list(forms(), as_json=as_json)
        return
    if form not in forms() and to in forms():  # said as DATA --to FORM FOLDER
        form, data, to = to, form, data
    _must_say("export", form, {"DATA": data, "--to": to})
    done = run(form, data, to, split=split)
    line = _told(f"exported {to} as {form}", done["counts"], "written", "kept_back")
    answer(done, line, as_json=as_json)


def import_(
    form: Form = "",
    source: Annotated[str, typer.Argument(metavar="[SOURCE]", help="Folder by path or URL of what is read.")] = "",
    to: To = "",
    copies: Annotated[
        str, typer.Option("--source", help="For stand_off: folder with your copies of the articles and figures.")
    ] = "",
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Read a form of others into a folder whose papers/, or scans/, is the source of a recipe.

    Volumes whose files say neither spacing nor orientation need both by --set: neither is guessed.

    Each thing that is refused has a row in refused.jsonl, and nothing else is lost with it.
    """
    from medloom.pipelines.import_ import forms
    from medloom.pipelines.import_ import import_ as run

    if not form:
        _list(forms(), as_json=as_json)
        return
    _must_say("import", form, {"SOURCE": source, "--to": to})
    done = run(form, source, to, copies=copies, settings=parse_settings(settings or []))
    line = _told(f"imported {form} to {to}", done["counts"], "made", "refused")
    answer(done, line, as_json=as_json)


def _must_say(command: str, form: str, given: dict[str, str]) -> None:
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ConfigError(f"medloom {command} {form} needs {' and '.join(missing)}; `medloom {command} -h` shows how")


def _list(forms: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(forms)
        return
    for name, about in forms.items():
        print(f"{name}: {about.partition(chr(10))[0]}")


def _told(line: str, counts: dict[str, Any], kept: str, back: str) -> str:
    """Return a line, then one for each thing counted."""
    from medloom.pipelines.report import listed

    lines = [
        f"{what}: {count['in']:,} in, {count[kept]:,} {kept}, {back.replace('_', ' ')}: "
        + listed(count[back], none="none")
        for what, count in counts.items()
    ]
    return "\n".join((line, *lines))
