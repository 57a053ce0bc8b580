"""The command line: commands of pipelines and of model, errors as one line, exit statuses.

0 passed; 1 the gate failed or nothing was kept; 2 the user's mistake; 70 a bug of ours; 75 worth retrying;
130 interrupted.
"""

import logging
import os
import sys
import traceback
from typing import Annotated, Any

import typer

from medloom import __version__
from medloom.model.cli import register as register_model
from medloom.model.cli_capacity import register as register_capacity
from medloom.model.cli_reading import register as register_reading
from medloom.model.cli_stream import register as register_index
from medloom.pipelines.cli import register as register_pipelines
from medloom.pipelines.cli_forms import register as register_forms
from medloom.pipelines.cli_shards import register as register_shards
from medloom.schemas.errors import MedloomError, Refused

USAGE, BUG, RETRY, INTERRUPTED = 2, 70, 75, 130
STORES = ("botocore", "aiobotocore", "gcsfs", "adlfs")  # clients of stores whose own errors reach us
UsageError: Any = typer.BadParameter.__bases__[0]  # click's, or typer's own copy of it: it depends on their versions

app = typer.Typer(
    name="medloom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 the gate failed or nothing was kept; 2 a mistake to mend; 75 worth retrying.",
)
_shown = {"traceback": False}
for register in (
    register_pipelines, register_forms, register_shards, register_index, register_reading, register_capacity,
    register_model,
):  # fmt: skip
    register(app)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log a line per shard.")] = False,
) -> None:
    """Papers, scans and reports into sharded, documented, reviewed training data, and a model trained on them."""
    if version:
        print(f"medloom {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UsageError("name a command", context)
    _shown["traceback"] = debug
    _log(verbose=verbose)


def _log(*, verbose: bool) -> None:
    """Show everybody's warnings, and with `verbose` our own lines; some libraries set their loggers to INFO."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(_is_told)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("medloom").setLevel(logging.INFO if verbose else logging.WARNING)


def _is_told(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt):
        return False  # Spark's gateway logs the traceback of a Ctrl-C, which `main` tells in a line
    return record.levelno >= logging.WARNING or record.name.startswith("medloom")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; what a user can mend is one line on standard error."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("medloom", list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt) as fault:
        return _told(fault, "interrupted; run the same command again to go on, what was finished stays", INTERRUPTED)
    except UsageError as fault:
        fault.show()
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `medloom … | head`: whoever read has left
        return 0
    except MedloomError as fault:
        return _told(fault, str(fault), fault.exit_status)
    except Refused as fault:
        return _told(fault, str(fault), USAGE)
    except OSError as fault:
        from medloom.schemas.store import mendable

        mended = mendable(fault, fault.filename or "a file")
        found = (fault.strerror or type(fault).__name__).lower()
        line = f"cannot use {fault.filename or 'a file'}: {found}" if mended is fault else str(mended)
        return _told(fault, line, getattr(mended, "exit_status", RETRY))
    except Exception as fault:  # noqa: BLE001 - the last line: nobody reads a traceback unasked
        if type(fault).__module__.partition(".")[0] in STORES:
            return _told(fault, f"cannot use the store: {fault}; check its address and your credentials", USAGE)
        return _told(fault, f"this is a bug of MedLoom: {_where(fault)}; `medloom --debug …` shows the whole", BUG)


def _told(fault: BaseException, line: str, status: int) -> int:
    if _shown["traceback"]:
        traceback.print_exception(fault)
    print(f"medloom: {line}", file=sys.stderr)
    return status


def _where(fault: Exception) -> str:
    """Return the kind of an error and the place of it in our own code, without its text, which may quote data."""
    ours = [frame for frame in traceback.extract_tb(fault.__traceback__) if "medloom" in frame.filename]
    at = f" in {os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""
    return f"{type(fault).__name__}{at}"


if __name__ == "__main__":
    sys.exit(main())
