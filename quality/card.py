"""Card: what a data set says of itself: a Markdown page whose front matter tells Hugging Face which files to read.

A folder that `load_dataset` reads has one builder, inferred from its first config (datasets 5): tars and Parquet files
need a card each. So the media's card lies at the root of what is published and the examples' card in `examples/`.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from medloom.quality.croissant import croissant
from medloom.quality.facts import Facts, states, tally
from medloom.schemas.build import Build
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.medium import LAYOUTS
from medloom.schemas.origin import TERMS, TERMS_VERSION
from medloom.schemas.release import Release

Of = Literal["media", "examples"]
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(build: Build, release: Release | None = None) -> None:
    """Write report/README.md (media), report/examples/README.md and report/croissant.json of a build.

    Their patterns and addresses lead from report/ to the build's files, so that
    `load_dataset("OUT/report", "volume")` works where the build lies.
    """
    build.store.write("report/README.md", card_text(build, release, root="../").encode())
    examples = card_text(build, release, root="../../examples/", of="examples")
    build.store.write("report/examples/README.md", examples.encode())
    text = json.dumps(croissant(build, release, root="../"), indent=2, ensure_ascii=False)
    build.store.write("report/croissant.json", (text + "\n").encode())


def card_text(build: Build, release: Release | None, *, root: str, of: Of = "media") -> str:
    """Return the data card of a build as Markdown with YAML front matter.

    Args:
        build: the build, or a published folder, which is one too.
        release: adds how many of its rows are live.
        root: the way from the card's folder to the build (`of="media"`: "" at the root of what is published), or to
            its `examples` (`of="examples"`: "" for `examples/README.md`).
        of: which files its configs name.
    """
    facts = Facts(build)
    return "\n".join([*_front_matter(facts, root, of), "", *_body(facts, release), ""])


def shown_parameters(parameters: dict[str, Any]) -> dict[str, str]:
    """Return a recipe's parameters as text, without locations: a path may say who somebody is."""
    shown = {name: value if isinstance(value, str) else json.dumps(value) for name, value in parameters.items()}
    return {name: "(a location)" if "/" in text or "\\" in text else text for name, text in sorted(shown.items())}


def _front_matter(facts: Facts, root: str, of: Of) -> Iterator[str]:
    licences = sorted({_hub_licence(row["terms_id"]) for row in facts.terms()})
    count = facts.media.num_rows if of == "media" else facts.examples.num_rows
    size = next((name for limit, name in SIZES if count < limit), "n>1M")
    yield "---"
    yield f"pretty_name: {json.dumps(facts.manifest['recipe']['name'])}"
    yield f"license: {json.dumps(licences)}"
    yield f"language: {json.dumps(sorted(tally(facts.examples, 'language')))}"
    yield 'task_categories: ["visual-question-answering", "image-to-text"]'
    yield 'tags: ["medical", "webdataset", "medloom"]'
    yield f"size_categories: [{json.dumps(size)}]"
    yield "configs:"
    configs = _media_configs(facts, root) if of == "media" else _example_configs(facts, root)
    for number, (name, patterns) in enumerate(configs):
        yield f"- config_name: {json.dumps(name)}"
        if number == 0:
            yield "  default: true"
        yield "  data_files:"
        for split, pattern in patterns.items():
            yield f"  - split: {json.dumps(split)}"
            yield f"    path: {json.dumps(pattern)}"
    yield "---"


def _hub_licence(terms_id: str) -> str:
    spdx = TERMS[terms_id].spdx if terms_id in TERMS else "LicenseRef-unknown"
    return "other" if spdx.startswith("LicenseRef-") else spdx.lower()


def _media_configs(facts: Facts, root: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give a config per layout; `[0-9]` keeps "volume" from matching the tars of "volume-seg"."""
    splits = {(shard.split, layout) for shard, ledger in facts.build.ledgers() for layout in ledger["tars"]}
    for layout in LAYOUTS:
        found = sorted(split for split, have in splits if have == layout)
        if found:
            yield layout, {split: f"{root}media/{split}-{layout}-[0-9]*.tar" for split in found}


def _example_configs(facts: Facts, root: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Give a config per task, of its current fingerprint and of the splits that have files."""
    for task, print_ in sorted(facts.manifest["recipe"]["tasks"].items()):
        folder = f"{task}/{print_[:12]}"
        names = [path.rsplit("/part-", 1)[1] for path in facts.build.example_parts(task, print_[:12])]
        splits = sorted({name.rsplit("-", 1)[0] for name in names})
        if splits:
            patterns = {split: f"{root}{folder}/part-{split}-[0-9]*.parquet" for split in splits}
            yield task, patterns


def _body(facts: Facts, release: Release | None) -> Iterator[str]:
    recipe = facts.manifest["recipe"]
    yield f"# {_cell(recipe['name'])}"
    yield ""
    yield (
        f"{facts.media.num_rows} images and volumes and {facts.examples.num_rows} training examples from "
        f"{facts.units.num_rows} articles and series, built by MedLoom. Media are plain tars, one field set per "
        "layout; examples are rows that refer to media by key. A patient, study or article never stands in two splits."
    )
    yield from _loading(facts)
    yield from _contents(facts, release)
    yield from _making(facts, release)
    yield from _licences(facts)
    yield from _limits(facts)


def _loading(facts: Facts) -> Iterator[str]:
    layout = next(iter(_media_configs(facts, "")), ("volume", {}, []))[0]
    task = next(iter(_example_configs(facts, "")), ("caption", {}, []))[0]
    yield from ("", "## Load", "", "```python", "from datasets import load_dataset", "")
    yield f'media = load_dataset("FOLDER", "{layout}")            # tars, a config per layout'
    yield f'examples = load_dataset("FOLDER/examples", "{task}")  # rows, a config per task'
    yield from (
        "```",
        "",
        "`FOLDER` holds the media and their card; the card of the rows lies in `FOLDER/examples`, since a",
    )
    yield "folder has one reader. A volume is a blosc2 frame:"
    yield "`blosc2.ndarray_from_cframe(sample['ct.b2nd'])[...]` is an array (Z, Y, X); its affine stands in `json`."


def _contents(facts: Facts, release: Release | None) -> Iterator[str]:
    yield from ("", "## Contents", "")
    yield from _grid("layout", tally(facts.media, "layout", "split"))
    yield ""
    yield from _grid("modality", tally(facts.media, "modality", "split"))
    yield ""
    yield from _grid("task", tally(facts.examples, "task", "split"))
    if facts.refused:
        refused = sum(entry.count for entry in facts.refused)
        yield from ("", f"Refused: {refused}. Each is a row with its reason; the report lists them.")
    if release is not None:
        by_state = states(release)
        yield from (
            "",
            f"Release {release.number}: {by_state.get('live', 0)} of {release.rows.num_rows} rows are live, ",
        )
        yield f"{by_state.get('withheld', 0)} withheld, {by_state.get('withdrawn', 0)} withdrawn."


def _making(facts: Facts, release: Release | None) -> Iterator[str]:
    recipe, manifest = facts.manifest["recipe"], facts.manifest
    yield from ("", "## How it was made", "")
    yield from _table("fact", "value")
    yield _row("recipe", recipe["name"])
    for name, value in shown_parameters(recipe["parameters"]).items():
        yield _row(f"parameter {name}", value)
    for name, value in sorted(recipe["fingerprints"].items()):
        yield _row(f"fingerprint {name}", value)
    for name, value in sorted(recipe["tasks"].items()):
        yield _row(f"fingerprint of task {name}", value)
    yield _row("manifest", f"{manifest['number']}, sha256 {digest_of_manifest(manifest)}")
    if release is not None:
        yield _row("release", f"{release.number}, sha256 {release.digest}")
    yield from ("", "Equal pins on the same architecture give equal bytes.", "", "### Sources", "")
    yield from _table("source", "units", "media", "examples")
    for row in facts.sources():
        yield _row(row["source"], row["units"], row["media"], row["examples"])
    yield from ("", "### Text by generator", "")
    yield "What a language model phrased is synthetic; its generator names the model and its digest. No question or"
    yield "answer below was written by a physician for this data set."
    yield ""
    yield from _table("task", "generator", "examples")
    for (task, generator), count in sorted(tally(facts.examples, "task", "generator").items()):
        yield _row(task, generator, count)
    synthetic = [row["source"] for row in facts.sources() if "synthetic" in row["source"]]
    if synthetic:
        yield from ("", f"Synthetic sources, written for this project: {', '.join(map(_cell, synthetic))}.")


def _licences(facts: Facts) -> Iterator[str]:
    yield from ("", "## Licences", "")
    yield f"By the table of terms, version {TERMS_VERSION}; the licence as stated and its attribution stand with each"
    yield "medium and example."
    yield ""
    yield from _table(
        "terms", "SPDX", "media", "examples", "redistribution", "derivatives", "commercial use", "language models"
    )
    for row in facts.terms():
        terms = row["terms"]
        allowed = (
            (_yes(terms.redistribution), _yes(terms.derivatives), _yes(terms.commercial), terms.llm_egress)
            if terms
            else ("unknown",) * 4
        )
        yield _row(row["terms_id"], terms.spdx if terms else "", row["media"], row["examples"], *allowed)


def _limits(facts: Facts) -> Iterator[str]:
    unstated = tally(facts.media, "body_part").get("", 0)
    yield from ("", "## Limits", "")
    yield "- For research on models; not for diagnosis, and not validated for any clinical use."
    yield "- Captions describe whole figures; a box or a mask exists only where an example's `regions` say so."
    yield f"- The anatomy of {unstated} of {facts.media.num_rows} media is not stated by their source."
    yield "- Papers over-represent rare findings; a share here is no prevalence."


def _grid(name: str, counts: Any) -> Iterator[str]:
    splits = sorted({split for _, split in counts})
    yield from _table(name, *splits, "all")
    for kind in sorted({kind for kind, _ in counts}):
        numbers = [counts.get((kind, split), 0) for split in splits]
        yield _row(kind or "not stated", *numbers, sum(numbers))


def _table(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: Any) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    """Return a value as text that neither ends a cell nor starts Markdown or HTML."""
    text = " ".join(str(value).split())
    for mark in "\\`*[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text


def _yes(allowed: bool) -> str:
    return "yes" if allowed else "no"
