"""Guard tests: who imports whom, what is light, what is pinned, and what no file may say."""

import ast
import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "connectors", "quality", "pipelines", "model")
FOLDERS = {*PACKAGES, "airflow_dags", "tests", "src", ".ci"}

# The one table of who may import whom; src/medloom/__main__.py composes the command lines.
MAY_IMPORT: dict[str, set[str]] = {
    "schemas": {"schemas"},
    "connectors": {"connectors", "schemas"},
    "quality": {"quality", "schemas"},
    "pipelines": {"pipelines", "connectors", "quality", "schemas"},
    "model": {"model", "quality", "schemas"},
    "airflow_dags": set(),
    "src/medloom": {"pipelines", "model", "schemas"},
}
HEAVY = {"torch", "ray", "pyspark", "transformers", "great_expectations", "pandas", "matplotlib"}
TORCH_MODULES = {f"model/{name}.py" for name in ("vision", "language", "train", "evaluate", "collate", "torch_loader")}
MAX_LINES = 450


def tracked() -> list[Path]:
    """Files that git tracks or would track, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout")
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    return [file for file in files if (ROOT / file).is_file()]


def sources(folder: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py") if not path.is_symlink())


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does when it is imported: not in a function, not for types."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "", at_import)
            yield from ((f"{node.module}.{alias.name}", at_import) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, False)
            for child in node.orelse:
                yield from walk(child, at_import)
        else:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, at_import and not in_function)

    yield from walk(ast.parse((ROOT / path).read_text()), True)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_packages_import_only_whom_they_may(folder):
    for path in sources(folder):
        names = {name for name, _ in imports(path)}
        ours = {name.split(".")[1] for name in names if name.startswith("medloom.")} & set(PACKAGES)
        assert ours <= MAY_IMPORT[folder], path
        assert MAY_IMPORT[folder] or not any(name.split(".")[0] == "medloom" for name in names), path
        assert not {name.split(".")[0] for name in names} & set(PACKAGES), f"{path}: import medloom.…"


@pytest.mark.parametrize("folder", [*PACKAGES, "airflow_dags"])
def test_heavy_libraries_are_imported_where_they_are_used(folder):
    for path in sources(folder):
        allowed = {"torch"} if path.as_posix() in TORCH_MODULES else set()
        heavy = {name.split(".")[0] for name, at_import in imports(path) if at_import} & HEAVY
        assert heavy <= allowed, path


def requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: [Requirement(r) for r in rows] for name, rows in project["optional-dependencies"].items()}
    return [Requirement(r) for r in project["dependencies"]], extras


def test_what_is_imported_is_a_declared_dependency():
    """At import: of the base install. In functions: of it or of an extra. A transitive dependency is no dependency."""
    base, extras = requirements()
    at_base = {canonicalize_name(r.name) for r in base}
    anywhere = at_base | {canonicalize_name(r.name) for rows in extras.values() for r in rows}
    owners = metadata.packages_distributions()
    unknown = set()
    for path in [p for folder in (*PACKAGES, "src/medloom") for p in sources(folder)]:
        for name, at_import in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in {"medloom", ""} | (
                HEAVY if path.as_posix() in TORCH_MODULES else set()
            ):
                continue
            declared = at_base if at_import else anywhere
            if not {canonicalize_name(owner) for owner in owners.get(top, [top])} & declared:
                unknown.add(f"{path}: {top}")
    assert not unknown


def test_every_installed_dependency_is_pinned_at_its_version():
    base, extras = requirements()
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][^ ]*", line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    todo, seen, wrong = [(r, "") for r in base + [r for rows in extras.values() for r in rows]], set(), []
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for asked in {"", *requirement.extras}:
            if name == "medloom" or (name, asked) in seen:
                continue
            seen.add((name, asked))
            try:
                installed = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue  # an extra that this environment does not have
            if pins.get(name) != installed.version.split("+")[0]:
                wrong.append(f"{name}: installed {installed.version}, pinned {pins.get(name)}")
            todo += [(Requirement(text), asked) for text in installed.requires or []]
    assert len(seen) > 40
    assert not wrong


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done


def test_help_imports_no_heavy_library():
    shown = run_python("-X", "importtime", "-m", "medloom", "--help").stderr
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in shown.splitlines()}
    assert "medloom" in imported
    assert not imported & {"torch", "ray", "pyspark", "transformers", "great_expectations"}


def test_importing_medloom_is_light():
    loaded = run_python(
        "-c", "import medloom, sys; print(*{name.split('.')[0] for name in sys.modules})"
    ).stdout.split()
    assert "medloom" in loaded
    assert not set(loaded) & (HEAVY | {"numpy", "pyarrow", "pydantic", "typer"})


@pytest.mark.parametrize("folder", PACKAGES)
def test_packages_have_empty_init_files(folder):
    for path in sources(folder):
        init = ROOT / path.parent / "__init__.py"
        assert init.is_file(), path
        assert init.read_text() == "", init


def test_top_level_folders_are_the_fixed_ones():
    assert {file.parts[0] for file in tracked() if len(file.parts) > 1} == FOLDERS


def test_packages_are_reached_through_relative_links():
    for name in PACKAGES:
        link = ROOT / "src" / "medloom" / name
        assert link.is_symlink()
        assert link.readlink() == Path(f"../../{name}")


def test_no_file_names_a_machine_or_a_registry():
    # Brackets keep this file from saying what it forbids.
    banned = re.compile(
        r"/[w]ork/|/tmp/[b]oot|/opt/[w]heels|/opt/[p]ypi|\.[l]ibrary/|https?://[^ \"']*(pypi|npmjs|debian)\."
    )
    for file in tracked():
        data = (ROOT / file).read_bytes()
        if b"\0" not in data:
            assert not banned.search(data.decode()), file


def test_files_stay_readable_in_one_sitting():
    long = {
        str(file) for file in tracked() if file.suffix == ".py" and (ROOT / file).read_text().count("\n") > MAX_LINES
    }
    assert not long
