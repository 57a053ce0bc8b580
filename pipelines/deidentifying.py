"""The command `deidentify`: DICOM objects into a folder that may be handed on, with a scorecard of what was done."""

from typing import Annotated, Any

import typer
from rich.table import Table

from medloom.pipelines.options import Json, print_json, print_table
from medloom.schemas.errors import GateError

EXAMPLES = (
    "medloom deidentify scans/ clean/",
    "medloom deidentify scans/ clean/ --profile basic --links ../private/links.csv",
    "medloom deidentify ultrasound/ clean/ --pixels mask",
)
SHOWN_REFUSALS = 20

Source = Annotated[str, typer.Argument(metavar="SRC", help="DICOM file, or folder of them.")]
Target = Annotated[str, typer.Argument(metavar="DST", help="New or empty folder.")]
ProfileName = Annotated[
    str,
    typer.Option("--profile", help="basic, research, research-patient, research-private or retain-uids."),
]
Pixels = Annotated[str, typer.Option(help="quarantine, mask or keep pixels that may show text (US, XA, captures).")]
Links = Annotated[str, typer.Option(help="New private file that says which original became which token.")]


def deidentify(
    source: Source,
    to: Target,
    profile: ProfileName = "research",
    pixels: Pixels = "quarantine",
    links: Links = "",
    as_json: Json = False,
) -> None:
    """Replace or remove what identifies in DICOM headers, at every level, and search the result for what is left.

    Dates move by one number of days per patient, UIDs and references stay consistent. Needs MEDLOOM_IDENTITY_KEY.
    """
    from medloom.pipelines import deidentify as work
    from medloom.pipelines.progress import Bars

    what = work.asked(source, to, profile_name=profile, pixels=pixels, links=links)
    with Bars(quiet=as_json) as tell:
        report = work.run(what, tell)
    if as_json:
        print_json(report)
    else:
        _tell(report)
    if not report["objects"]["out"]:
        raise GateError(f"none of the {report['objects']['in']:,} objects of {source} could be de-identified")


def _tell(report: dict[str, Any]) -> None:
    from medloom.pipelines.report import amount, listed

    counts = report["objects"]
    print(
        f"{report['to']}: {amount(counts['in'], 'object')}: {counts['out']:,} written, {counts['refused']:,} refused; "
        f"profile {report['profile']}, table {report['table']}, key {report['key_id']}\n"
        f"refused: {listed(report['reasons'], none='none')}"
    )
    if report["refused"]:
        table = Table("object", "reason", "detail")
        for row in report["refused"][:SHOWN_REFUSALS]:
            table.add_row(row["object"], row["reason"], row["detail"])
        print_table(table)
        if len(report["refused"]) > SHOWN_REFUSALS:
            print(f"and {len(report['refused']) - SHOWN_REFUSALS:,} more; --json lists all")
    table = Table("scorecard", "right", "required")
    for row in report["scorecard"]:
        table.add_row(row["action"], f"{row['right']:,}", f"{row['required']:,}")
    print_table(table)
    print(report["note"])
