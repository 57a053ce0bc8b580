"""Set folders: which public sets lie under a folder, told by how their files are called and where they stand."""

from collections.abc import Iterable
from typing import Literal

from medloom.connectors.segmentation_sets.cases import is_hidden, place_of
from medloom.connectors.segmentation_sets.spec import SetSpec, compiled, plain_path
from medloom.pipelines.sources.cases import Cases
from medloom.pipelines.sources.members import list_objects
from medloom.schemas.errors import ConfigError


def sources_of(
    root: str, specs: Iterable[SetSpec], *, is_named: bool, raters: Literal["vote", "keep"] = "vote"
) -> tuple[Cases, ...]:
    """Return a source for each of `specs` that lies under `root`.

    Args:
        is_named: the user said which set it is: nothing is looked for, and all under `root` is that set's.

    Raises:
        ConfigError: no set is recognised, or a folder beside those that are is none.
        SourceError: there is no such folder.
    """
    if is_named:
        return tuple(Cases(spec.name, root, spec, raters=raters) for spec in specs)
    prefix = Cases("", root, next(iter(specs))).prefix
    urls = list_objects(root)["url"].to_pylist()
    paths, hidden = ([plain_path(prefix + url) for url in urls if is_hidden(url) == wanted] for wanted in (False, True))
    found = recognised(paths, specs)
    if not found:
        raise ConfigError(f"no public set is recognised in the source's folder; {_expected(specs)}")
    within = territories(paths, found, hidden=hidden)
    return tuple(Cases(spec.name, root, spec, within=within[spec.name], raters=raters) for spec in found)


def recognised(paths: Iterable[str], specs: Iterable[SetSpec]) -> dict[SetSpec, set[str]]:
    """Return the folders in which the layout of each set starts, of the sets that have an image among `paths`."""
    images = [(spec, compiled(part.image)) for spec in specs for part in spec.parts]
    found: dict[SetSpec, set[str]] = {}
    for path in paths:
        for spec, pattern in images:
            place = pattern.match(path)
            if place and spec.hint in path.lower():
                found.setdefault(spec, set()).add(place["root"])
    return found


def territories(
    paths: list[str], found: dict[SetSpec, set[str]], *, hidden: Iterable[str] = ()
) -> dict[str, tuple[str, ...]]:
    """Return the beginnings of the paths that each set takes, so that every path is taken by one of them.

    A set takes all of the folder in which its layout starts, and where another set starts there too, or below, only
    the entries of it that hold its files. Single files beside the folders, and `hidden` ones, go to the first set.

    Raises:
        ConfigError: a folder is of no set.
    """
    taken: dict[str, set[str]] = {spec.name: set() for spec in found}
    for spec, roots in found.items():
        others = {root for other, theirs in found.items() if other is not spec for root in theirs}
        for root in roots:
            if any(other.startswith(root) for other in others):
                taken[spec.name] |= _entries(spec, root, paths)
            else:
                taken[spec.name].add(root)
    everything = tuple(sorted(set().union(*taken.values())))
    left = [path for path in paths if not path.startswith(everything)]
    folders = {path.split("/")[1] for path in left if path.count("/") > 1}
    if folders:
        raise ConfigError(
            f"folders {', '.join(map(repr, sorted(folders)[:8]))} of the source are of none of the sets that are "
            f"recognised ({', '.join(spec.name for spec in found)}); move them away, or say --set set=NAME. "
            f"{_expected(found)}"
        )
    taken[next(iter(found)).name] |= {*left, *(path for path in hidden if not path.startswith(everything))}
    return {name: tuple(sorted(starts)) for name, starts in taken.items()}


def _entries(spec: SetSpec, root: str, paths: Iterable[str]) -> set[str]:
    """Return the folders and files directly in `root` that hold files of the set."""
    found = set()
    for path in paths:
        place = place_of(spec, path) if path.startswith(root) else None
        if place and place.role != "unused" and place.root == root:
            first, slash, _ = path.removeprefix(root).partition("/")
            found.add(root + first + slash)
    return found


def _expected(specs: Iterable[SetSpec]) -> str:
    """Return how the known sets look, as text."""
    return "known are " + ", ".join(f"{spec.name} ({spec.parts[0].image})" for spec in specs)
