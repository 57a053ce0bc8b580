"""Keeping a raw zone up to date by the service's inventory: what is new, changed, superseded, gone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.pipelines.fetch.zones import kept, must_be_what_the_service_gave, outcomes, rows, stopped_after
from tests.services.loopback import SLOW_DOWN, damaged, slow
from tests.services.pmc import Pmc, plain

from medloom.connectors.pmc_inventory import VERSION
from medloom.pipelines.fetch.inventory import Inventories, State
from medloom.schemas.errors import RetryLater, SourceError
from medloom.schemas.raw import RawZone
from medloom.schemas.store import Store

DAY1, DAY2, DAY3 = "2026-09-03T01-00Z", "2026-09-04T01-00Z", "2026-09-05T01-00Z"


def articles_asked(service: Pmc) -> set[str]:
    """Articles of which anything was asked since the list was cleared."""
    names = [name.removeprefix("metadata/").removesuffix(".json") for name in service.asked if "inventory" not in name]
    return {name.partition("/")[0] for name in names}


def test_an_inventory_brings_all_and_the_next_only_what_differs(service, fetch, tmp_path):
    raw = tmp_path / "raw"
    same, changed, newer, gone, late = (plain(n) for n in (61, 62, 63, 64, 65))
    service.add(same, changed, newer, gone)
    service.report(DAY1)
    first = fetch(inventory="on")
    assert (first.asked, first.kept) == (16, 16)
    must_be_what_the_service_gave(raw, service)

    service.server.seen.clear()
    again = fetch(inventory="on")
    assert (again.asked, again.withdrawn) == (0, 0)
    assert len(service.asked) == again.requests == 3  # which reports there are, the checksum, the manifest

    service.add(replace(changed, word="mass"), plain(63, version=2), late)
    service.remove(gone, newer)
    service.report(DAY2)
    service.server.seen.clear()
    second = fetch(inventory="on")
    assert articles_asked(service) == {"PMC62.1", "PMC63.2", "PMC65.1"}
    assert second.withdrawn == len([r for r in rows(raw).values() if r["outcome"] in ("withdrawn", "superseded")]) == 8
    found = outcomes(raw)
    assert {v for name, v in found.items() if name.startswith("PMC64.1/")} == {"withdrawn pmc.vanished"}
    assert {v for name, v in found.items() if name.startswith("PMC63.1/")} == {"superseded pmc.version"}
    must_be_what_the_service_gave(raw, service)
    fetch(inventory="on", to=tmp_path / "whole")
    assert kept(raw) == kept(tmp_path / "whole")

    service.add(gone)
    service.report(DAY3)
    assert fetch(inventory="on").kept == 4
    assert outcomes(raw)[gone.xml_key] == "kept"


def test_a_version_that_was_superseded_counts_again_when_the_newer_vanishes(service, fetch, tmp_path):
    one, two = plain(66), plain(66, version=2, word="mass")
    service.add(one, two)
    service.report(DAY1)
    fetch(inventory="on")
    assert set(outcomes(tmp_path / "raw")) == {two.xml_key, "PMC66.2/a66-g1.jpg", "PMC66.2/a66-g2.jpg"}
    service.remove(two)
    service.report(DAY2)
    done = fetch(inventory="on")
    assert (done.kept, done.withdrawn) == (4, 4)
    service.add(two)
    service.report(DAY3)
    service.server.seen.clear()
    fetch(inventory="on")
    service.remove(two)
    service.report("2026-09-06T01-00Z")
    service.server.seen.clear()
    last = fetch(inventory="on")
    assert last.kept == 3
    assert not [name for name in service.asked if name.startswith("PMC66.1/")]  # its bytes are there
    assert outcomes(tmp_path / "raw")[one.xml_key] == "kept"


def test_what_was_fetched_by_id_is_not_fetched_again(service, fetch, tmp_path):
    service.add(plain(67), plain(68))
    fetch(plain(67))
    service.report(DAY1)
    service.server.seen.clear()
    done = fetch(inventory="on")
    assert articles_asked(service) == {"PMC68.1"}
    assert (done.known, done.kept) == (4, 4)


def test_an_article_fetched_after_the_inventory_was_made_is_no_vanished_one(service, fetch, tmp_path):
    service.add(plain(67))
    service.report(DAY1)
    fetch(inventory="on")
    service.report(DAY2)
    service.add(plain(68))
    fetch(plain(68))
    assert fetch(inventory="on").withdrawn == 0


def test_limited_runs_go_through_an_inventory_piece_by_piece(service, fetch, tmp_path):
    many = [plain(70 + n, n_figures=1) for n in range(7)]
    service.add(*many)
    service.report(DAY1)
    for expected in (3, 3, 1, 0):
        assert fetch(inventory="on", limit="3").kept == 3 * expected
    service.remove(many[0])
    service.report(DAY2)
    service.server.seen.clear()
    done = fetch(inventory="on", limit="3")
    assert (done.kept, done.withdrawn, articles_asked(service)) == (0, 3, set())


def test_wider_tiers_go_through_a_finished_inventory_again(service, fetch, tmp_path):
    service.add(plain(81), plain(82, stated="CC BY-NC"))
    service.report(DAY1)
    assert dict(fetch(inventory="on").reasons) == {"terms.tier": 1}
    service.server.seen.clear()
    assert fetch(inventory="on", tiers="open,nc").kept == 3
    assert articles_asked(service) == {"PMC82.1"}


def test_what_was_put_off_is_asked_for_by_the_next_run(service, fetch, tmp_path):
    service.add(plain(83), plain(84))
    service.report(DAY1)
    service.server.faults_of["/pmc-oa-opendata/PMC83.1/PMC83.1.xml"] = [SLOW_DOWN] * 3
    assert fetch(inventory="on").later == 1
    done = fetch(inventory="on")
    assert (done.later, done.known, done.kept) == (0, 4, 4)


def test_a_damaged_inventory_changes_nothing(service, fetch, tmp_path):
    service.add(plain(85))
    service.report(DAY1)
    path = f"/pmc-oa-opendata/inventory-reports/pmc-oa-opendata/metadata/data/{DAY1}-0.csv.gz"
    service.server.faults_of[path] = [damaged] * 3
    with pytest.raises(SourceError, match=r"cannot read the inventory of .*http\.md5"):
        fetch(inventory="on")
    assert not list((tmp_path / "raw").rglob("*.parquet"))
    assert fetch(inventory="on").kept == 4


@pytest.mark.slow
def test_a_killed_sync_goes_on_and_equals_an_unbroken_one(service, fetch, tmp_path, monkeypatch):
    many = [plain(800 + n, n_figures=2) for n in range(130)]
    service.add(*many)
    service.report(DAY1)
    monkeypatch.setenv("MEDLOOM_RATES", str(tmp_path / "rates"))
    service.server.faults = [slow(0.002)] * 2000
    stopped_after(service, tmp_path / "raw", 100, "--set", "inventory=on", "--set", "workers=4")
    service.server.faults.clear()
    fetch(inventory="on")
    fetch(inventory="on", to=tmp_path / "unbroken")
    assert kept(tmp_path / "raw") == kept(tmp_path / "unbroken")
    assert fetch(inventory="on").asked == 0
    assert not list((tmp_path / "raw/inventory").rglob(".partial-*"))


def test_two_runs_do_not_follow_an_inventory_at_once(service, fetch, tmp_path):
    service.add(plain(86))
    service.report(DAY1)
    RawZone.at(str(tmp_path / "raw"))
    with Inventories(Store(str(tmp_path / "raw"))).alone(), pytest.raises(RetryLater, match="another run brings"):
        fetch(inventory="on")
    assert service.asked == []
    assert fetch(inventory="on").kept == 4


def table(*versions: tuple[int, int, str]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(VERSION.names, v, strict=True)) for v in versions], schema=VERSION)


def all_rows(tables: Any) -> list[tuple[Any, ...]]:
    return sorted(tuple(row.values()) for each in tables for row in each.to_pylist())


@pytest.mark.parametrize("rows_held", [1, 700, 1 << 20])
def test_two_reports_differ_as_sets_differ(tmp_path: Path, monkeypatch, rows_held):
    monkeypatch.setattr("medloom.pipelines.fetch.inventory.ROWS_HELD", rows_held)
    before = {(n, 1, f"e{n % 7}") for n in range(1, 2000)} | {(n, 2, "x") for n in range(1, 2000, 10)}
    after = {(n, v, "y" if n % 13 == 0 else e) for n, v, e in before if n % 11} | {(n, 3, "z") for n in range(1, 99, 9)}
    kept_ = Inventories(Store(str(tmp_path)))
    assert kept_.take(DAY1, [table(*sorted(before)[:1000]), table(*sorted(before)[1000:])]) == len(before)
    kept_.take(DAY2, [table(*after)])
    differ = {n for n, _, _ in before ^ after}
    assert all_rows(kept_.changed(DAY2, DAY1)) == sorted(row for row in after if row[0] in differ)
    assert all_rows(kept_.changed(DAY2, "")) == sorted(after)
    here = {(n, v) for n, v, _ in after}
    newest = {n: max(v for m, v in here if m == n) for n, _ in here}
    gone = sorted((n, v, e, newest.get(n)) for n, v, e in before if (n, v) not in here)
    assert sorted(all_rows(kept_.vanished(DAY2, DAY1)), key=str) == sorted(gone, key=str)
    assert all_rows(kept_.vanished(DAY2, DAY2)) == all_rows(kept_.changed(DAY2, DAY2)) == []


def test_reports_that_are_needed_no_more_are_deleted(tmp_path: Path):
    kept_ = Inventories(Store(str(tmp_path)))
    assert kept_.state() == State()
    for stamp in (DAY1, DAY2, DAY3):
        kept_.take(stamp, [table((1, 1, "e"))])
        kept_.mark(compared=stamp)
        if stamp == DAY1:
            kept_.mark(done=stamp, tiers=("open",))
    assert [stamp for stamp in (DAY1, DAY2, DAY3) if kept_.holds(stamp)] == [DAY1, DAY3]
    assert kept_.state() == State(DAY3, DAY1, ("open",))
