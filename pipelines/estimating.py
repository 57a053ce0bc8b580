"""The command `estimate`: what a recipe over all of PMC would cost, before anything is fetched."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from medloom.pipelines.options import Json, Set, parse_settings, print_json, print_table
from medloom.schemas.errors import ConfigError

EXAMPLES = (
    "medloom estimate pmc_inline",
    "medloom estimate pmc_captions --sample papers/ --cores 64 --articles 1000000",
)


def estimate(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe of papers, or path of a .py file.")],
    settings: Set = None,
    sample: Annotated[str, typer.Option(help="Folder of articles to measure on; the demo's without.")] = "",
    articles: Annotated[int, typer.Option(help="How many articles; 0: all of the open-access subset.", min=0)] = 0,
    cores: Annotated[int, typer.Option(help="Cores to reckon with; 0: those of this machine.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Print the hours, bytes and requests that PMC costs, from rates measured here and the limits of the service."""
    from dataclasses import replace

    from medloom.pipelines import estimate as run
    from medloom.pipelines.recipe import load_recipe

    folder, what = _sample(sample)
    if not folder.is_dir():
        raise ConfigError(f"--sample {sample} is no folder of this machine")
    loaded = load_recipe(recipe, {"source": "not read", **parse_settings(settings or [])})
    if any(source.kind != "papers" for source in loaded.recipe.sources):
        raise ConfigError(f"recipe {recipe} reads more than papers; estimate knows only their service and their sizes")
    corpus = run.Corpus()
    corpus = replace(corpus, articles=articles or corpus.articles)
    used = cores or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    found = run.sample_articles(folder)
    what = f"{len(found)} {what}"
    measured = run.measure(loaded.recipe, found, sample=what)
    costs = run.estimate(corpus, measured, cores=used)
    if as_json:
        print_json(run.as_json(corpus, measured, costs, cores=used))
        return
    print(
        f"{corpus.articles:,} articles of {corpus.article_bytes / 1e3:,.0f} kB, {corpus.figures:g} figures each of "
        f"{corpus.figure_bytes / 1e3:,.0f} kB ({corpus.known_from})\n"
        f"measured on {what} and synthetic pictures, on one core; reckoned for {used} cores\n"
    )
    table = Table("step", "work", "hours", "limited by")
    for cost in costs:
        table.add_row(cost.step, cost.work, f"{cost.hours:,.1f}" if cost.hours else "", cost.limited_by)
    print_table(table)


def _sample(said: str) -> tuple[Path, str]:
    """Return the folder of the articles to measure on, and what they are."""
    if said:
        return Path(said), f"articles of {said}"
    from medloom.pipelines import recipes as bundled

    package = importlib.util.find_spec("allofplos")
    if package and package.submodule_search_locations:
        return Path(package.submodule_search_locations[0]) / "starter_corpus", "articles of PLOS"
    return Path(bundled.__path__[0]) / "demo_articles", "synthetic case reports, which are short"
