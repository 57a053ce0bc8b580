"""The report in a real browser: it draws, says what the build holds, asks the network for nothing, leaks nothing."""

import base64
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from medloom.quality import report as module
from medloom.quality.facts import Facts, reasons, summary
from medloom.quality.gates import Finding, GateResult
from medloom.quality.report import bytes_text, write_report
from medloom.quality.samples import cut, example_cards, media_cards, spread, thumbnail
from medloom.schemas.keys import canonical_json
from medloom.schemas.release import append_overlay
from medloom.schemas.shard import ShardName

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TRAIN = ShardName("train", 0)
GATE = GateResult(
    False,
    (
        Finding("group", "expect_x", "split", "critical", "fail", 7, None, "no group is in two splits"),
        Finding("article", "expect_y", "licence_code", "warning", "pass", 0, None, "every article states a licence"),
    ),
)


def page_of(build, **more):
    write_report(build, **more)
    return build.store.read("report/report.html").decode()


def test_the_summary_counts_what_was_built(build, release):
    found = summary(build, release)
    assert found["units"] == 14
    assert found["media"] == 6 * 2 + 8
    assert found["media_by_layout"] == {"jpg": 6, "png": 6, "volume": 5, "volume-seg": 3}
    assert found["examples_by_task"] == {"caption": 20, "vqa": 6}
    assert found["refused_by_reason"] == {"dicom.unreadable": 1, "media.unavailable": 16}
    assert found["media_bytes"] == sum(p.stat().st_size for p in build.store.local("media").iterdir())
    counted = found["release"]
    assert counted["live"] == release.live_rows().num_rows
    assert counted["live"] + counted["withheld"] + counted["withdrawn"] == counted["rows"] == 26


def test_reasons_of_a_release_come_from_policy_and_overlay(release):
    assert reasons(release) == {
        ("withheld", "example", "text.short"): 1,
        ("withheld", "example", "duplicate.exact"): 1,
        ("withdrawn", "group", "asked by its source"): 1,
    }


def test_a_lifted_reason_is_gone_and_a_withdrawal_stays(release):
    rows, group = release.rows.to_pylist(), release.rows["group"][-1].as_py()
    lifted = {"state": "live", "reason": "seen, fine", "by": "curator"}
    append_overlay(release.store, [{"scope": "example", "id": row["example_id"], **lifted} for row in rows[:1]])
    append_overlay(release.store, [{"scope": "group", "id": group, **lifted}])
    assert reasons(release) == {
        ("withheld", "example", "duplicate.exact"): 1,
        ("withdrawn", "group", "asked by its source"): 1,
    }


def test_the_page_names_no_address_but_its_own(build, release):
    page = page_of(build, release=release, gate=GATE, timings={"media": 3.0}, losses=[3.0, 2.0])
    addresses = re.findall(r"""(?:src|href|action|srcset)\s*=\s*["']?([^"'\s>]*)""", page)
    assert len(addresses) > 20
    assert {address for address in addresses if not address.startswith(("#", "data:"))} == set()
    assert "url(" not in page
    assert "@import" not in page
    assert not re.search(r"https?://|//[a-z]+\.", re.sub(r"data:[^\"]*", "", page))
    assert "default-src 'none'" in page
    assert len(page) < 6_000_000


def test_text_of_the_build_is_escaped(build, change):
    evil = '</p><script>alert(1)</script><img src=x onerror="alert(2)">'
    (task, print_), *_ = build.tasks()
    for part in build.example_parts(task, print_):
        change(build, part, lambda row: {"generator": evil, "labels": [evil], "terms_id": evil})
    ledger = build.ledger(TRAIN)
    ledger["refused"][0] |= {"reason": evil, "detail": evil, "key": evil}
    build.store.write(TRAIN.ledger, json.dumps(ledger).encode())
    page = page_of(build, timings={evil: 1.0})
    assert page.count("<script>") == 1
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 5


def test_nothing_of_private_and_no_location_enters(build):
    build.store.write("private/links.parquet", b"secret")
    build.store.write("private/seen/train-000000", b"secret")
    newest = build.manifest()
    newest["recipe"]["parameters"] = {"source": "/home/jane-doe/scans", "spacing_mm": 1.5}
    build.store.write("manifests/0001.json", canonical_json(newest).encode())
    page = page_of(build)
    assert "jane-doe" not in page
    assert "secret" not in page
    assert "parameter spacing_mm" in page


def test_the_same_build_gives_the_same_page(build, release):
    assert page_of(build, release=release) == page_of(build, release=release)


def test_a_shut_gate_says_what_keeps_it_shut(build):
    page = page_of(build, gate=GATE)
    assert "gate shut" in page
    assert "no group is in two splits" in page
    assert re.search(r"<details open><summary>group", page)
    assert re.search(r"<details><summary>article", page)
    assert "1 of 1 failed" in page


def test_a_warning_is_shown_and_called_no_failure(build):
    warned = Finding(
        "article", "expect_y", "licence_code", "warning", "fail", 3, None, "every article states a licence"
    )
    page = page_of(build, gate=GateResult(True, (GATE.rows[1], warned)))
    assert "gate passed" in page
    assert "1 passed, 1 to look at" in page
    assert 'class="fail"' not in page


def test_damaged_bytes_are_said_on_the_page_instead_of_a_picture(build):
    for row in build.store.read_table(TRAIN.index("jpg")).to_pylist():
        if row["field"] == "jpg":
            with build.store.local(TRAIN.tar("jpg")).open("r+b") as file:
                file.seek(row["offset"])
                file.write(b"\0\0")
    page = page_of(build)
    assert page.count("cannot be shown: FormatError") >= 5
    assert "data:image/jpeg" in page


def test_an_article_only_build_still_has_a_page(build):
    for shard in list(build.shards):
        ledger = build.ledger(shard)
        ledger |= {"tars": {}, "units": [{**unit, "kept": []} for unit in ledger["units"]], "refused": []}
        build.store.write(shard.ledger, json.dumps(ledger).encode())
    build.store.delete_folder("examples")
    build.store.delete_folder("tables/quarantine")
    page = page_of(build)
    assert "There are no media." in page
    assert "There are no examples." in page
    assert "Nothing was refused." in page


def test_samples_take_every_kind_in_turn_and_are_the_same_each_time(build):
    facts = Facts(build)
    chosen = spread(facts.media, ["layout", "modality"], 7)
    kinds = [tuple(facts.media.select(["layout", "modality"]).slice(n, 1).to_pylist()[0].values()) for n in chosen]
    every = set(zip(facts.media["layout"].to_pylist(), facts.media["modality"].to_pylist(), strict=True))
    assert len(every) == 6
    assert set(kinds) == every
    assert chosen == spread(Facts(build).media, ["layout", "modality"], 7)
    assert sorted(spread(facts.media, ["layout"], 1000)) == list(range(facts.media.num_rows))


def test_cards_show_what_the_tars_hold(build):
    facts = Facts(build)
    cards = media_cards(facts, range(facts.media.num_rows))
    assert [card.key for card in cards] == facts.media["key"].to_pylist()
    volume = next(card for card in cards if card.layout == "volume")
    assert (volume.shape, volume.spacing_mm) == ("6 × 80 × 72", "2.5 × 0.8 × 0.8")
    figure = next(card for card in cards if card.layout == "jpg")
    assert figure.caption.text.startswith("Axial CT shows a 3 cm mass <b>&</b>")
    assert all(card.image.startswith("data:image/jpeg;base64,") for card in cards)


def test_evidence_stands_in_its_source_and_a_wrong_place_is_said(build, change):
    cards = [card for card in example_cards(Facts(build), 100) if card.task == "vqa"]
    assert {(c.evidence[0].before, c.evidence[0].words, c.evidence[0].after, c.evidence[0].holds) for c in cards} == {
        (
            "He was admitted in May. A 3 cm mass in the ",
            "right lower lobe",
            " is shown in Figure 1. It was resected.",
            True,
        )
    }
    print_ = dict(build.tasks())["vqa"]
    for part in build.example_parts("vqa", print_):
        change(build, part, lambda row: {"evidence": [{**e, "start": e["start"] + 1} for e in row["evidence"]]})
    cards = [card for card in example_cards(Facts(build), 100) if card.task == "vqa"]
    assert {card.evidence[0].holds for card in cards} == {False}
    assert "the words are not those at this place" in page_of(build)


def test_a_box_is_drawn_where_it_lies(build, change):
    print_ = dict(build.tasks())["vqa"]
    box = [0, 32, 52, 128]

    def boxed(row):
        turns = row["turns"]
        turns[0]["parts"][0]["box"] = box
        return {"turns": turns}

    for part in build.example_parts("vqa", print_):
        change(build, part, boxed)
    card = next(card for card in example_cards(Facts(build), 100) if card.task == "vqa")
    assert (card.media[0].height, card.media[0].width) == (104, 128)
    assert card.boxes == {card.media[0].key: ["left:25.00%;top:0.00%;width:75.00%;height:50.00%"]}


def test_long_text_is_cut_visibly(build):
    assert cut("a b c", 5).left_out == 0
    assert (cut("word " * 10, 12).text, cut("word " * 10, 12).left_out) == ("word word", 41)
    assert (cut("x" * 20, 5).text, cut("x" * 20, 5).left_out) == ("xxxxx", 15)
    assert cut("text", 0).left_out == 4


@pytest.mark.parametrize(
    ("pixels", "shown"),
    [
        (np.full((300, 900), 40_000, np.uint16), 156),
        (np.full((40, 60), 200, np.uint8), 200),
        (np.full((40, 60, 4), 90, np.uint8), 90),
        (np.full((40, 60, 3), 30, np.uint8), 30),
    ],
)
def test_thumbnails_are_scaled_and_never_clipped(pixels, shown):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail(file.getvalue()).partition(",")[2])))
    assert abs(int(np.asarray(image).max()) - shown) <= 2
    assert image.size == ((480, 160) if pixels.shape[0] == 300 else (60, 40))


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 40, "3.0 TiB")])
def test_sizes_are_said_in_powers_of_1024(size, text):
    assert bytes_text(size) == text


@pytest.fixture
def browser():
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=CHROMIUM, args=quiet)


@pytest.mark.slow
def test_a_browser_draws_the_page_without_a_complaint_or_a_request(browser, build, release):
    write_report(build, release=release, gate=GATE, timings={"media": 3.0}, losses=[3.0, 2.5, float("nan"), 2.0])
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = build.store.local("report/report.html").as_uri()
    page.goto(address)
    assert page.title() == "synthetic · manifest 1 · MedLoom report"
    tiles = dict(
        zip(page.locator(".tile span").all_inner_texts(), page.locator(".tile strong").all_inner_texts(), strict=True)
    )
    assert tiles == {"units": "14", "media": "20", "examples": "26", "shards": "2", "refused": "17", "held back": "5"}
    assert page.locator("#media .medium").count() == 20
    assert page.locator("#examples .example").count() == 24
    drawn = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(drawn) == 20 + sum(1 for card in example_cards(Facts(build), 24) for _ in card.media)
    assert all(width > 0 for width in drawn)
    assert page.locator("svg rect.heat").count() > 5
    assert page.locator("svg polyline").count() == 2
    page.fill("#filter-media", "SCAN-0003")
    assert page.locator("#media .medium:visible").count() == 1
    assert page.locator("#media output").inner_text() == "1 of 20"
    page.fill("#filter-media", "")
    assert page.locator("#media .medium:visible").count() == 20
    page.locator("summary", has_text="article").press("Enter")
    assert page.get_by_text("every article states a licence").is_visible()
    narrow = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 380, "height": 800})
    assert narrow
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert said == []


@pytest.mark.slow
def test_the_browser_is_told_to_refuse_the_network_and_other_scripts(browser, build, monkeypatch):
    monkeypatch.setattr(module, "FILTER_JS", "fetch('http://127.0.0.1:9/x').catch(() => document.title = 'refused');")
    write_report(build)
    path = build.store.local("report/report.html")
    path.write_text(path.read_text().replace("</main>", "<script>document.title = 'foreign';</script></main>"))
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.title == 'refused'")
    assert any("Content Security Policy" in text and "connect" in text for text in said)
    assert any("inline script" in text for text in said)
    assert not [url for url in asked if url.startswith("http")]
