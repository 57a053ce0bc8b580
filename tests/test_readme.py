"""What the README shows is there: its commands and options, the files that it names, the output that it prints."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from medloom.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def commands(program: str) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line.removeprefix("$ ").split("  #")[0] for block in blocks for line in block.splitlines()]
    spoken = re.findall(rf"`({program} [^`]+)`", README)
    return [line for line in [*lines, *spoken] if line.startswith(f"{program} ")]


@pytest.mark.parametrize("line", commands("medloom"))
def test_a_command_of_the_readme_is_one_and_takes_its_options(line):
    root = typer.main.get_command(app)
    name, *words = shlex.split(line)[1:]
    command = root.commands[name]
    options = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("line", commands("make"))
def test_a_make_target_of_the_readme_is_one(line):
    target = line.split()[1]
    rules = re.findall(r"^([a-z%-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert any(re.fullmatch(rule.replace("%", ".+"), target) for rule in rules)


def test_the_files_that_the_readme_names_are_there():
    for name in re.findall(r"`((?:[a-z_]+/)+[\w.]*)`", README):
        if not name.startswith(("out/", "private/", "path/", "media/", "plan/", "tables/", "releases/", "report/")):
            assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / name).exists(), name
