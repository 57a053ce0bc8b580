"""Export: what of a release may leave, in a form of others; each form is one module of `pipelines/exports`."""

import hashlib
import importlib
import inspect
import json
import pkgutil
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from medloom.pipelines import exports
from medloom.pipelines.exports.writing import ARTICLES, MEDIA, Writing
from medloom.pipelines.new_folder import new_folder
from medloom.pipelines.outgoing import Outgoing, outgoing
from medloom.schemas.errors import ConfigError, GateError
from medloom.schemas.keys import canonical_json
from medloom.schemas.origin import TERMS
from medloom.schemas.plan import read_plan
from medloom.schemas.release import Release
from medloom.schemas.store import Store
from medloom.schemas.tables import FORMAT_VERSION

MANIFEST = "manifest.json"


def forms(package: ModuleType = exports, function: str = "export") -> dict[str, str]:
    """Return what each form is, by name: the modules of `package` that hold `function`."""
    found = {}
    for entry in pkgutil.iter_modules(package.__path__):
        does = getattr(importlib.import_module(f"{package.__name__}.{entry.name}"), function, None)
        if does is not None and does.__module__ == f"{package.__name__}.{entry.name}":
            found[entry.name] = inspect.cleandoc(does.__doc__ or "")
    return dict(sorted(found.items()))


def form(name: str, package: ModuleType = exports, function: str = "export") -> Any:
    """Return the function that writes, or reads, a form.

    Raises:
        ConfigError: there is no such form.
    """
    known = forms(package, function)
    if name not in known:
        verb = "export" if package is exports else "import"
        raise ConfigError(f"there is no form {name!r} to {verb}; known are {', '.join(known)}")
    return getattr(importlib.import_module(f"{package.__name__}.{name}"), function)


def export(name: str, data: str, to: str, *, split: str = "") -> dict[str, Any]:
    """Write what may leave of a release, in the form `name`, into a new folder; return its manifest.

    The same release and overlay give the same bytes.

    Raises:
        ConfigError: no such form or split, a release of several builds, or `to` is not empty.
        SourceError: there is no release at `data`, or its build holds no text.
        FormatError: the build has moved on since the release.
        GateError: nothing may leave in this form; nothing is written.
    """
    write = form(name)
    kind = inspect.getmodule(write)
    release = Release(data)
    with new_folder(to) as store:
        out = outgoing(
            release,
            split=split,
            unbound=getattr(kind, "UNBOUND", False),
            as_declared=getattr(kind, "OF_SCANS", False),
            unfit=getattr(kind, "UNFIT_TOO", False),
        )
        with Writing(out, store) as writing:
            write(writing)
        counts = writing.counts(articles=_articles(out), left_out="form.no_place")
        if not counts["articles"]["in"]:
            del counts["articles"]
        if not counts["examples"]["written"] and not counts["media"]["written"]:
            why = ", ".join(f"{n} {reason}" for reason, n in counts["examples"]["kept_back"].items())
            raise GateError(
                f"nothing of release {release.number} at {release.url} may leave as {name}: {why or 'it is empty'}"
            )
        manifest = {
            "format_version": FORMAT_VERSION, "kind": "export", "form": name, "split": split,
            "release": _release(release), "counts": counts, "noted": dict(sorted(writing.noted.items())),
            "licences": dict(sorted(writing.licences.items())), "licensed": writing.licensed,
            "configs": writing.configs, "files": _files(store),
        }  # fmt: skip
        store.write("README.md", _readme(name, manifest).encode())
        store.write(MANIFEST, (canonical_json(manifest) + "\n").encode())
    return manifest


def _release(release: Release) -> dict[str, Any]:
    pinned = release.facts["builds"][0]
    return {
        "number": release.number, "digest": release.digest, "build_manifest": pinned["manifest"],
        "overlay_parts": len(release.store.names("overlay")),
    }  # fmt: skip


def _articles(out: Outgoing) -> int:
    """Return how many articles the release's build has of the split."""
    plan = read_plan(out.build.store)
    if out.split:
        plan = plan.filter(pc.equal(plan["split"], out.split))
    keys = out.build.table("article", ["article_key"])["article_key"].to_pylist()
    return int(pc.sum(pc.is_in(plan["unit"], value_set=pa.array(keys, pa.string()))).as_py() or 0)


def _files(store: Store) -> dict[str, dict[str, Any]]:
    """Return size and sha256 of the files at the top; those of pictures stand in `media.jsonl`."""
    found = {}
    for name in store.names(""):
        data = store.read(name)
        found[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return found


def _front_matter(configs: dict[str, dict[str, str]]) -> list[str]:
    """Return the lines by which Hugging Face knows which files are which configuration and split."""
    lines = ["---", "configs:"]
    for config, patterns in sorted(configs.items()):
        lines += [f"- config_name: {json.dumps(config)}", "  data_files:"]
        for split, pattern in sorted(patterns.items()):
            lines += [f"  - split: {json.dumps(split)}", f"    path: {json.dumps(pattern)}"]
    return [*lines, "---", ""] if configs else []


def _readme(name: str, manifest: dict[str, Any]) -> str:
    """Return what a person who is handed the folder needs to know."""
    about, _, more = forms()[name].partition("\n")
    lines = [*_front_matter(manifest["configs"]), f"# {about.partition(':')[0]}", "", about, more.rstrip(), ""]
    lines += [
        f"Exported by MedLoom from release {manifest['release']['number']} (sha256 {manifest['release']['digest']})"
        + (f", split {manifest['split']}" if manifest["split"] else "") + ".", "",
        "| | in | written | kept back |", "|---|---|---|---|",
    ]  # fmt: skip
    for what, counts in manifest["counts"].items():
        back = ", ".join(f"{n} {reason}" for reason, n in counts["kept_back"].items()) or "none"
        lines.append(f"| {what} | {counts['in']} | {counts['written']} | {back} |")
    lines += [f"\n{n} {what}." for what, n in manifest["noted"].items() if n]
    named = manifest["licensed"] or ("articles" if ARTICLES in manifest["files"] else "media")
    lines += ["", "## Licences", "", f"| terms | {named} | SPDX |", "|---|---|---|"]
    lines += [f"| {terms} | {n} | {TERMS[terms].spdx} |" for terms, n in manifest["licences"].items()]
    told = {
        ARTICLES: "names the licence and the authors to name of every article",
        MEDIA: "names the licence and whom to name of every medium",
    }
    lines += ["", ", ".join(f"`{name}` {what}" for name, what in told.items() if name in manifest["files"]) + "."]
    lines += ["Name them wherever the material is used.", ""]
    return "\n".join(lines)
