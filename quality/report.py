"""Report: one self-contained HTML page on which a curator sees what a build holds, what it refused and why.

The page asks the network for nothing and says so to the browser; all text is escaped; nothing of private/ is read.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from medloom.quality import plots
from medloom.quality.card import shown_parameters
from medloom.quality.facts import Facts, reasons, states, summary, tally
from medloom.quality.gates import Finding, GateResult
from medloom.quality.identity import identity_rows
from medloom.quality.samples import example_cards, media_cards, spread
from medloom.schemas.build import Build
from medloom.schemas.manifest import digest_of_manifest
from medloom.schemas.origin import TERMS_VERSION
from medloom.schemas.release import Release

__all__ = ["summary", "write_report"]

PATH = "report/report.html"
MEDIA_SHOWN, EXAMPLES_SHOWN = 48, 24
ANATOMY_SHOWN = 20
NOT_STATED = "not stated"
OTHERS = "others"
FILTER_JS = """
for (const input of document.querySelectorAll("input[data-filters]")) {
  const items = document.querySelectorAll(input.dataset.filters);
  const count = input.parentElement.querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      const text = item.textContent.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
      shown += !item.hidden;
    }
    count.textContent = words.length ? shown + " of " + items.length : "";
  });
}
"""


def write_report(
    build: Build,
    *,
    release: Release | None = None,
    gate: GateResult | None = None,
    timings: Mapping[str, float] | None = None,
    losses: Sequence[float] | None = None,
) -> str:
    """Write report/report.html of a build and return its URL.

    Args:
        release: adds what is withheld and why.
        gate: adds what the gate found.
        timings: seconds by step.
        losses: of each training step, drawn as a line.
    """
    page = _render(_page(build, release, gate, timings or {}, losses or ()))
    build.store.write(PATH, page.encode())
    return f"{build.url}/{PATH}"


def _render(page: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("medloom.quality", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"bytes": bytes_text, "number": lambda n: f"{n:,}"}
    digest = base64.b64encode(hashlib.sha256(FILTER_JS.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(page, script=Markup(FILTER_JS), script_digest=digest)


def _page(
    build: Build,
    release: Release | None,
    gate: GateResult | None,
    timings: Mapping[str, float],
    losses: Sequence[float],
) -> dict[str, Any]:
    facts = Facts(build)
    by_state = states(release) if release else Counter()
    chosen = sorted(spread(facts.media, ["layout", "modality", "body_part"], MEDIA_SHOWN))
    return {
        "name": facts.manifest["recipe"]["name"],
        "manifest": facts.manifest["number"],
        "release": release.number if release else None,
        "tiles": _tiles(facts, release, by_state),
        "heatmap": _heatmap(facts),
        "tasks": _tasks(facts),
        "splits": _splits(facts),
        "refused": facts.refused,
        "most_refused": max((entry.count for entry in facts.refused), default=1),
        "identity": identity_rows(facts),
        "gate": gate,
        "gate_tables": _by_table(gate),
        "media": media_cards(facts, chosen),
        "n_media": facts.media.num_rows,
        "examples": example_cards(facts, EXAMPLES_SHOWN),
        "n_examples": facts.examples.num_rows,
        "generators": sorted(tally(facts.examples, "task", "generator").items()),
        "terms": list(facts.terms()),
        "terms_version": TERMS_VERSION,
        "sources": list(facts.sources()),
        "by_state": by_state,
        "reasons": sorted(reasons(release).items(), key=lambda item: (-item[1], item[0])) if release else [],
        "facts": list(_determinism(facts, release)),
        "timings": _timings(timings),
        "loss": plots.line(losses, x_label="training step", y_label="loss") if losses else None,
        "losses": losses,
    }


def _tiles(facts: Facts, release: Release | None, by_state: Mapping[str, int]) -> list[tuple[str, str, str]]:
    """Return (number, what, remark) of what a curator asks first."""
    refused = sum(entry.count for entry in facts.refused)
    tiles = [
        (f"{facts.units.num_rows:,}", "units", f"{facts.articles.num_rows:,} articles"),
        (f"{facts.media.num_rows:,}", "media", bytes_text(facts.bytes_of_media)),
        (f"{facts.examples.num_rows:,}", "examples", _count(len(tally(facts.examples, "task")), "task")),
        (f"{len(facts.shards):,}", "shards", _count(len(_splits(facts)), "split")),
        (f"{refused:,}", "refused", _count(len(facts.refused), "reason")),
    ]
    if release is not None:
        held, live = by_state.get("withheld", 0) + by_state.get("withdrawn", 0), by_state.get("live", 0)
        tiles.append((f"{held:,}", "held back", f"{live:,} rows live"))
    return tiles


def _heatmap(facts: Facts) -> Markup:
    """Draw media by anatomy (rows) and by modality and dimension (columns)."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for (part, modality, layout), count in tally(facts.media, "body_part", "modality", "layout").items():
        counts[part or NOT_STATED, modality or NOT_STATED, "3D" if layout.startswith("volume") else "2D"] += count
    parts, modalities = Counter[str](), Counter[str]()
    for (part, modality, _), count in counts.items():
        parts[part] += count
        modalities[modality] += count
    named = sorted((p for p in parts if p != NOT_STATED), key=lambda p: (-parts[p], p))
    if len(named) > ANATOMY_SHOWN:
        kept = set(named[: ANATOMY_SHOWN - 1]) | {NOT_STATED}
        folded: Counter[tuple[str, str, str]] = Counter()
        for (part, modality, dimension), count in counts.items():
            folded[part if part in kept else OTHERS, modality, dimension] += count
        counts, named = folded, [*named[: ANATOMY_SHOWN - 1], OTHERS]
    rows = named + ([NOT_STATED] if NOT_STATED in parts else [])
    heads = sorted(modalities, key=lambda m: (-modalities[m], m))
    have = {(modality, dimension) for _, modality, dimension in counts}
    columns = [(head, dimension) for head in heads for dimension in ("2D", "3D") if (head, dimension) in have]
    return plots.heatmap(rows, columns, counts)


def _tasks(facts: Facts) -> Markup:
    rows: dict[str, dict[str, int]] = {}
    for (task, split), count in sorted(tally(facts.examples, "task", "split").items()):
        rows.setdefault(task, {})[split] = count
    return plots.bars(rows, _splits(facts), unit="examples")


def _splits(facts: Facts) -> list[str]:
    """Return the splits, the usual ones first and in their usual order."""
    usual = {"train": 0, "validation": 1, "test": 2}
    return sorted(set(facts.units["split"].to_pylist()), key=lambda split: (usual.get(split, len(usual)), split))


def _by_table(gate: GateResult | None) -> list[dict[str, Any]]:
    """Return each table with its findings, those that did not pass first, and how many shut the gate or only warn."""
    if gate is None:
        return []
    grouped: dict[str, list[Finding]] = {}
    for row in gate.rows:
        grouped.setdefault(row.table, []).append(row)
    return [
        {
            "name": table,
            "findings": sorted(rows, key=lambda row: row.outcome == "pass"),
            "shut": sum(row in gate.failed for row in rows),
            "warned": sum(row.outcome != "pass" and row not in gate.failed for row in rows),
        }
        for table, rows in grouped.items()
    ]


def _timings(timings: Mapping[str, float]) -> list[tuple[str, str, float]]:
    """Return (step, seconds as text, share of the longest)."""
    longest = max(timings.values(), default=1) or 1
    return [(step, f"{seconds:,.1f}", seconds / longest) for step, seconds in timings.items()]


def _determinism(facts: Facts, release: Release | None) -> Iterator[tuple[str, str]]:
    """Give what pins the build: who has equal pins gets equal bytes."""
    recipe, manifest = facts.manifest["recipe"], facts.manifest
    yield "manifest", f"{manifest['number']}, format {manifest['format_version']}"
    yield "manifest sha256", digest_of_manifest(manifest)
    if manifest["parent"]:
        yield "parent sha256", manifest["parent"]
    if release is not None:
        yield f"release {release.number} sha256", release.digest
    for name, value in sorted(recipe["fingerprints"].items()):
        yield f"fingerprint of {name}", value
    for name, value in sorted(recipe["tasks"].items()):
        yield f"fingerprint of task {name}", value
    for name, value in shown_parameters(recipe["parameters"]).items():
        yield f"parameter {name}", value


def bytes_text(size: float) -> str:
    """Return a size in bytes as a person says it, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
