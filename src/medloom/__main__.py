"""The command line: commands of pipelines and of model, errors as one line, exit statuses.

0 passed; 1 the gate failed or nothing was kept; 2 the user's mistake; 75 worth retrying; 130 interrupted.
"""

import logging
import sys
import traceback
from typing import Annotated

import click
import typer

from medloom import __version__
from medloom.model.cli import register as register_model
from medloom.pipelines.cli import register as register_pipelines
from medloom.schemas.errors import MedloomError, Refused

app = typer.Typer(
    name="medloom",
    help="Papers, scans and reports into sharded, documented, reviewed training data, and a model trained on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_shown = {"traceback": False}
register_pipelines(app)
register_model(app)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log a line per shard.")] = False,
) -> None:
    """Papers, scans and reports into sharded, documented, reviewed training data, and a model trained on them."""
    if version:
        print(f"medloom {__version__}")
        raise typer.Exit
    _shown["traceback"] = debug
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; what a user can mend is one line on standard error."""
    try:
        status = app(arguments if arguments is not None else sys.argv[1:], standalone_mode=False)
        return int(status or 0)
    except click.exceptions.Abort:
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except click.ClickException as fault:
        fault.show()
        return 2
    except MedloomError as fault:
        return _told(fault, fault.exit_status)
    except Refused as fault:
        return _told(fault, 2)
    except OSError as fault:
        from medloom.schemas.store import mendable

        return _told(mendable(fault, fault.filename or "a file"), 75)


def _told(fault: Exception, status: int) -> int:
    if _shown["traceback"]:
        traceback.print_exception(fault)
    print(f"medloom: {fault}", file=sys.stderr)
    return getattr(fault, "exit_status", status)


def _interrupted() -> int:
    print("medloom: interrupted; run the same command again to go on, what was finished stays", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
