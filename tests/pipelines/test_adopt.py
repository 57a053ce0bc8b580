"""A fix in one stage: finished shards of another fingerprint are built again, or adopted, only if somebody says so."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import sources
from tests.pipelines.conftest import Built

from medloom.pipelines import steps
from medloom.pipelines.adoption import ADOPTED, Rebuild
from medloom.schemas.errors import ConfigError

WHERE = ("media", "index", "ledger")


@pytest.fixture
def fixed(built: Built, tmp_path: Path) -> Built:
    """A copy of the build whose recipe has another version of a stage now."""
    copied = replace(
        built.copied(tmp_path), recipe=sources.write_recipe(tmp_path / "both.py", stages='(Measure(version="other"),)')
    )
    steps.tables(sources.step(copied.out, copied.source), copied.recipe)
    return copied


def prints(built: Built) -> dict[str, str]:
    return {str(shard): ledger["media_fingerprint"] for shard, ledger in built.build.ledgers()}


def media(built: Built, **said: Any) -> dict[str, Any]:
    return steps.media(sources.step(built.out, rebuild=Rebuild(**said)))


def test_another_fingerprint_without_a_word_is_refused_and_named(fixed: Built):
    (old,) = set(prints(fixed).values())
    before = sources.facts_of(fixed.out)
    with pytest.raises(
        ConfigError, match=rf"fingerprint {old[:12]}, the recipe now has [0-9a-f]{{12}}.*--rebuild.*--adopt"
    ):
        media(fixed)
    assert sources.facts_of(fixed.out) == before


def test_rebuild_builds_all_again(fixed: Built):
    (old,) = set(prints(fixed).values())
    media(fixed, all=True)
    (new,) = set(prints(fixed).values())
    assert new != old
    before = sources.facts_of(fixed.out, among=WHERE)
    media(fixed)
    assert sources.facts_of(fixed.out, among=WHERE) == before


def test_adopting_rebuilds_only_what_is_excepted_and_keeps_the_reason(fixed: Built):
    (old,) = set(prints(fixed).values())
    before = sources.facts_of(fixed.out, among=WHERE)
    excepted = sorted(prints(fixed))[0]
    media(fixed, adopt=old[:12], excepted=(excepted,), because="only pictures without text change")
    after = sources.facts_of(fixed.out, among=WHERE)
    written = {name for name, facts in after.items() if before.get(name) != facts}
    assert f"ledger/{excepted}.json" in written
    split, _, number = excepted.rpartition("-")
    assert all(split in name and number in name for name in written)
    assert [s for s, p in prints(fixed).items() if p != old] == [excepted]
    (line,) = [json.loads(text) for text in (fixed.out / ADOPTED).read_text().splitlines()]
    assert (line["adopted"], line["except"], line["because"]) == (old, [excepted], "only pictures without text change")
    assert ADOPTED in media(fixed)["files"]
    assert sources.facts_of(fixed.out, among=WHERE) == after
    assert sources.rest(fixed.out)["counts"]["examples"]


def test_adopting_needs_a_reason_a_fingerprint_and_shards_that_exist(fixed: Built):
    (old,) = set(prints(fixed).values())
    before = sources.facts_of(fixed.out)
    with pytest.raises(ConfigError, match="--because"):
        media(fixed, adopt=old[:12])
    with pytest.raises(ConfigError, match=f"they have {old[:12]}"):
        media(fixed, adopt="0123456789ab", because="x")
    with pytest.raises(ConfigError, match="no such shard"):
        media(fixed, adopt=old[:12], because="x", excepted=("train-000099",))
    with pytest.raises(ConfigError, match="belong to --adopt"):
        media(fixed, because="x")
    with pytest.raises(ConfigError, match="one of the two"):
        media(fixed, all=True, adopt=old[:12], because="x")
    assert sources.facts_of(fixed.out) == before
    assert not (fixed.out / ADOPTED).exists()
