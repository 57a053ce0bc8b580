"""Linting: what `medloom lint` looks at and mends: a build with its newest release, or a release with its builds."""

from collections.abc import Iterator
from dataclasses import replace

from medloom.pipelines.shard_extras import write_extras, wrong_extras
from medloom.pipelines.state import locked
from medloom.quality.finding import REPAIR, Finding
from medloom.quality.lint import lint
from medloom.quality.repair import Mended, Repaired, repair
from medloom.schemas.build import Build
from medloom.schemas.errors import FormatError, SourceError
from medloom.schemas.release import Release, find_release, resolve_uri
from medloom.schemas.store import Store


def lint_all(url: str) -> list[Finding]:
    """Return all that is wrong with a build, its newest release and the extras of both; or with a release so.

    Raises:
        SourceError: there is neither at `url`.
        FormatError: a build has no manifest.
    """
    url = Store(url).url
    builds, release = _what(url)
    found = [replace(f, path=_said(f.path, b, url, release)) for b in builds for f in lint(b, release=release)]
    return [*dict.fromkeys(found), *_extras(url, release)]


def repair_all(url: str) -> Repaired:
    """Mend what can be mended of them, while no other run writes the builds.

    Raises:
        SourceError, FormatError: as `lint_all`.
        RetryLater: another run is writing a build.
    """
    url = Store(url).url
    builds, release = _what(url)
    steps: list[Mended] = []
    for build in builds:
        with locked(build.store):
            done = repair(build, release=release)
            steps += [replace(step, path=_said(step.path, build, url, release)) for step in done.steps]
    steps += _mend_extras(url, release)
    return Repaired(tuple(steps), tuple(lint_all(url)))


def _what(url: str) -> tuple[list[Build], Release | None]:
    build, release = Build(url), find_release(url)
    if build.store.names("plan") or release is None:
        return [build.must_exist()], release
    return [Build(resolve_uri(b["uri"], base=release.url)).must_exist() for b in release.facts["builds"]], release


def _said(path: str, build: Build, url: str, release: Release | None) -> str:
    """Return a path relative to `url` where that is the build, else with the build before it."""
    is_own = build.store.root == Store(url).root or (release is not None and path.startswith(f"{release.url}/"))
    return path if is_own else f"{build.url}/{path}"


def _places(url: str, release: Release | None) -> list[str]:
    """Return the build and the folder of its releases, where extras were made of them."""
    places = {url: ""} | ({release.url: f"{release.name}/"} if release else {})
    return [
        place
        for place, prefix in places.items()
        if any(Store(place).exists(f"{prefix}{kind}") for kind in ("wids", "energon"))
    ]


def _extras(url: str, release: Release | None) -> Iterator[Finding]:
    for place in _places(url, release):
        where = "" if place == url else f"{place}/"
        try:
            for path, _, _ in wrong_extras(place):
                yield Finding(f"{where}{path}", "extra.bytes", "it is not what ledgers and indexes say", REPAIR)
        except (FormatError, SourceError, OSError, ValueError) as fault:
            found = f"the extras cannot be judged: {fault}"
            yield Finding(f"{where}wids", "extra.unknown", found, "mend the rest first, or delete wids/ and energon/")


def _mend_extras(url: str, release: Release | None) -> Iterator[Mended]:
    for place in _places(url, release):
        where = "" if place == url else f"{place}/"
        try:
            wrong = wrong_extras(place)
            kinds = {"wids": any(of for _, of, _ in wrong), "energon": any(of for _, _, of in wrong)}
            if wrong:
                write_extras(place, **kinds)
        except (FormatError, SourceError, OSError, ValueError):
            continue  # told by what is left
        for path, _, _ in wrong:
            yield Mended(f"{where}{path}", True, "written again from ledgers and indexes")
