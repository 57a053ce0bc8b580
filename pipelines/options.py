"""What commands share: options that several have, and how an answer is printed, for people or as JSON."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from medloom.schemas.errors import ConfigError

Set = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE, a parameter of the recipe or service; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, and nothing else, on standard output.")]


def parse_settings(settings: list[str]) -> dict[str, str]:
    """Return {name: value} of `NAME=VALUE` texts.

    Raises:
        ConfigError: one of them has no `=`.
    """
    for text in settings:
        if "=" not in text:
            raise ConfigError(f"--set {text} is not NAME=VALUE")
    return dict(text.split("=", 1) for text in settings)


def print_parameters(found: dict[str, tuple[str, dict[str, str]]], *, as_json: bool) -> None:
    """Print what can be named, what each is about, and the parameters that --set fills, as "type = default"."""
    if as_json:
        print_json({name: {"about": about, "parameters": parameters} for name, (about, parameters) in found.items()})
        return
    for name, (about, parameters) in found.items():
        print(f"{name}: {about}")
        wide = max(map(len, parameters), default=0)
        for parameter, kind in parameters.items():
            print(f"    {parameter:{wide}}  {_plain_kind(kind)}")


def _plain_kind(kind: str) -> str:
    """Return a parameter's type and default as people say them: "on | off, default on"."""
    type_, has_default, default = kind.partition(" = ")
    if type_.startswith("typing.Literal["):
        type_ = type_.removeprefix("typing.Literal[").removesuffix("]").replace("'", "").replace(", ", " | ")
    if type_ == "tuple[str, ...]":
        type_, default = "a,b,…", ",".join(part.strip(" '") for part in default.strip("(),").split(","))
    if type_ == "bool":
        type_, default = "on | off", {"True": "on", "False": "off"}.get(default, "")
    default = default.strip("'") or '""'
    return f"{type_}, default {default}" if has_default else f"{type_}, needed"


def answer(value: Any, line: str, *, as_json: bool) -> None:
    """Print a value as JSON, or else a line that says it."""
    if as_json:
        print_json(value)
    else:
        print(line)


def print_json(value: Any) -> None:
    """Print a value as JSON, its keys in order."""
    print(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, default=str))


def print_table(table: Table) -> None:
    """Print a table that fits a terminal by folding, and in a pipe has a line per row, however long."""
    table.box, table.pad_edge = None, False
    if Console().is_terminal:
        Console(highlight=False).print(table)
        return
    wide = Console(width=10_000, highlight=False, color_system=None)
    with wide.capture() as capture:
        wide.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))
