"""Fetching from the PMC Cloud Service into a raw zone, against a loopback server with its faults."""

import hashlib
import json
from collections import Counter
from dataclasses import replace

import pytest
from tests.pipelines.fetch.zones import MANY, kept, must_be_what_the_service_gave, outcomes, rows
from tests.services.eutils import Eutils
from tests.services.id_converter import IdConverter
from tests.services.loopback import loopback
from tests.services.pmc import BORROWED, Figure, plain

from medloom.schemas.errors import ConfigError
from medloom.schemas.raw import RawZone


def test_articles_are_kept_with_the_figures_that_they_show_and_nothing_else(service, fetch, tmp_path):
    first, second = plain(11, n_figures=4), plain(12)
    service.add(first, second, plain(112))
    done = fetch(first, second)
    shown = [f"{a.folder}/{file}" for a in (first, second) for figure in a.figures for file in figure.files]
    assert set(kept(tmp_path / "raw")) == {first.record_key, second.record_key, first.xml_key, second.xml_key, *shown}
    must_be_what_the_service_gave(tmp_path / "raw", service)
    assert (done.asked, done.kept, done.known, done.refused, done.later) == (10, 10, 0, 0, 0)
    assert done.bytes == sum(len(service.objects[name]) for name in kept(tmp_path / "raw"))
    assert Counter(service.asked) == dict.fromkeys([*kept(tmp_path / "raw"), "list PMC11.", "list PMC12."], 1)


def test_fetching_again_asks_nothing(service, fetch, tmp_path):
    refused = replace(plain(13), said={"is_retracted": True})
    articles = [*MANY[:5], refused, plain(14, figures=(Figure("lost", ()),)), plain(15)]
    service.add(*articles[:-1])
    first = fetch(*articles)
    before = rows(tmp_path / "raw")
    service.server.seen.clear()
    again = fetch(*articles)
    assert service.asked == []
    assert (again.requests, again.kept, again.bytes) == (0, 0, 0)
    assert (again.asked, again.known, again.refused) == (first.asked, first.kept, first.refused)
    assert again.reasons == first.reasons == {"article.retracted": 1, "media.unavailable": 1, "pmc.unknown": 1}
    assert rows(tmp_path / "raw") == before


def test_an_unknown_id_is_a_row(service, fetch, tmp_path):
    service.add(plain(16))
    done = fetch(plain(1), plain(16))
    assert outcomes(tmp_path / "raw")["PMC1"] == "refused pmc.unknown"
    assert done.refused == 1
    service.add(plain(1))
    assert fetch(plain(1)).requests == 0
    assert fetch(plain(1), refresh="on").kept == 4
    assert fetch(plain(1)).known == 4


GRAPHICS = (  # a figure's graphic and the files beside it; which of them it means
    (Figure("x.g001", ("x.g001.jpg", "x.g001.gif", "x.g0011.jpg")), "x.g001.jpg"),
    (Figure("x.g001.tif", ("x.g001.jpg", "x.g001.tif")), "x.g001.tif"),
    (Figure("x.g001.tif", ("x.g001.jpg", "x.g001.gif")), "x.g001.jpg"),
    (Figure("x", ("x.gif", "x-thumb.jpg")), "x.gif"),
    (Figure("info:doi/10.1371/journal.pone.0038869.g001", ("pone.0038869.g001.jpg",)), "pone.0038869.g001.jpg"),
    (Figure("https://example.org/a/b/x.png", ("x.png", "y.png")), "x.png"),
    (Figure("x.eps", ("x.eps", "x.png")), "x.png"),
    (Figure("x", ("x.pdf", "x.xlsx", "x.mp4", "x.zip")), ""),
    (Figure("../../etc/passwd", ("x.jpg",)), ""),
    (Figure("x", ("x.svg",)), ""),
    (Figure("x.g001", ("x.jpg", "x.g002.jpg")), ""),
)


def test_a_graphic_means_the_best_picture_of_its_name(service, fetch, tmp_path):
    articles = [plain(170 + n, figures=(figure,)) for n, (figure, _) in enumerate(GRAPHICS)]
    service.add(*articles)
    done = fetch(*articles)
    media = {
        row["article"]: name for name, row in rows(tmp_path / "raw").items() if row["role"] == "media" and row["md5"]
    }
    meant = {a.folder: f"{a.folder}/{file}" for a, (_, file) in zip(articles, GRAPHICS, strict=True) if file}
    assert media == meant
    assert dict(done.reasons) == {"media.unavailable": len(GRAPHICS) - len(meant)}
    assert Counter(n for n in service.asked if "/" in n and not n.startswith(("list", "metadata"))) == dict.fromkeys(
        [*meant.values(), *(a.xml_key for a in articles)], 1
    )


def test_of_equally_good_files_the_largest_is_taken(service, fetch, tmp_path):
    article = plain(18, figures=(Figure("x", ("x.jpg", "x.png")),))
    service.add(article)
    sizes = {name: len(service.objects[f"{article.folder}/{name}"]) for name in ("x.jpg", "x.png")}
    fetch(article)
    assert f"{article.folder}/{max(sizes, key=sizes.__getitem__)}" in kept(tmp_path / "raw")
    assert f"{article.folder}/{min(sizes, key=sizes.__getitem__)}" not in service.asked


def test_media_outside_the_articles_folder_are_never_asked_for(service, fetch, tmp_path):
    article, other = plain(19), plain(20)
    service.add(other)
    elsewhere = json.loads(other.objects()[other.record_key])["media_urls"]
    service.add(replace(article, said={"media_urls": [u.replace("a20", "a19") for u in elsewhere]}))
    done = fetch(article)
    assert dict(done.reasons) == {"media.unavailable": 2}
    assert not [name for name in service.asked if name.startswith("PMC20.1/")]


GATES = (  # what is wrong with an article, the reason, and whether its XML is asked for
    ({"said": {"is_retracted": True}}, "article.retracted", False),
    ({"said": {"is_pmc_openaccess": False}}, "article.not_open_access", False),
    ({"stated": "TDM"}, "terms.tier", False),
    ({"stated": "CC BY-ND"}, "terms.tier", False),
    ({"retracted_in_xml": True}, "article.retracted", True),
    ({"stated": "", "said": {"license_code": None}}, "terms.tier", True),
    ({"stated": "CC BY-NC", "said": {"license_code": "CC BY"}}, "terms.tier", True),
    ({"said": {"xml_url": None}}, "pmc.no_xml", False),
    ({"said": {"is_retracted": "perhaps"}}, "pmc.metadata", False),
)


def test_a_gate_closes_before_a_byte_of_media_moves(service, fetch, tmp_path):
    articles = [plain(300 + n, **wrong) for n, (wrong, _, _) in enumerate(GATES)]
    service.add(*articles)
    done = fetch(*articles)
    for article, (_, reason, reads_xml) in zip(articles, GATES, strict=True):
        asked = [name for name in service.asked if article.pmcid in name]
        assert asked == [f"list {article.pmcid}.", article.record_key, *[article.xml_key] * reads_xml], article
        found = [row["reason"] for row in rows(tmp_path / "raw").values() if row["article"] == article.folder]
        assert [reason] == [reason_ for reason_ in found if reason_], article
    assert (done.refused, done.kept) == (len(GATES), len(GATES) - 1)  # the records, but for the one that is none
    assert not any(row["outcome"] == "kept" and row["role"] != "metadata" for row in rows(tmp_path / "raw").values())
    assert fetch(*articles).requests == 0


def test_null_ids_and_a_null_licence_are_no_reason_to_refuse(service, fetch, tmp_path):
    article = plain(31, said={"license_code": None, "doi": None, "pmid": None, "pdf_url": None})
    service.add(article)
    assert fetch(article).kept == 4


def test_other_tiers_ask_only_for_what_they_add(service, fetch, tmp_path):
    nd, nc = plain(32, stated="CC BY-ND"), plain(33, stated="CC BY-NC", said={"license_code": None})
    service.add(nd, nc)
    assert dict(fetch(nd, nc).reasons) == {"terms.tier": 2}
    service.server.seen.clear()
    assert fetch(nd, nc, tiers="open,nd").kept == 3  # the XML of the other is there since its licence was read in it
    assert not [name for name in service.asked if name.startswith(("metadata", "list", "PMC33"))]
    service.server.seen.clear()
    assert fetch(nd, nc, tiers="open,nd,nc").kept == 3
    assert service.asked == [f"{nc.folder}/{f}" for figure in nc.figures for f in figure.files]
    must_be_what_the_service_gave(tmp_path / "raw", service)
    held = rows(tmp_path / "raw")
    narrow = fetch(nd, nc)
    assert (narrow.requests, narrow.known, narrow.withdrawn) == (0, 8, 0)
    assert rows(tmp_path / "raw") == held


def test_a_figure_by_permission_is_not_fetched_and_its_neighbours_are(service, fetch, tmp_path):
    own, other = plain(34).figures
    article = plain(34, figures=(own, replace(other, permissions=BORROWED)))
    service.add(article)
    done = fetch(article)
    name = f"{article.folder}/{other.files[0]}"
    assert outcomes(tmp_path / "raw")[name] == "refused terms.third_party"
    assert name not in service.asked
    assert f"{article.folder}/{own.files[0]}" in kept(tmp_path / "raw")
    assert (done.kept, done.refused) == (3, 1)
    assert fetch(article, tiers="open,nc,nd,other").requests == 0


def test_a_file_of_two_figures_needs_the_leave_of_both(service, fetch, tmp_path):
    shown = Figure("x", ("x.jpg",))
    for figures in ((shown, replace(shown, permissions=BORROWED)), (replace(shown, permissions=BORROWED), shown)):
        article = plain(35, figures=figures)
        service.add(article)
        done = fetch(article, refresh="on")
        assert (done.reasons["terms.third_party"], "PMC35.1/x.jpg" in service.asked) == (1, False)


def test_the_newest_version_counts_and_supersedes_the_older(service, fetch, tmp_path):
    one, two = plain(36), plain(36, version=2, word="nodule")
    service.add(one)
    fetch(one)
    service.add(two)
    assert fetch(one).requests == 0  # nobody was asked to look for newer versions
    done = fetch(one, refresh="on")
    assert (done.kept, done.withdrawn) == (4, 3)
    found = outcomes(tmp_path / "raw")
    assert {v for name, v in found.items() if name.startswith("PMC36.1/")} == {"superseded pmc.version"}
    assert {v for name, v in found.items() if name.startswith("PMC36.2/")} == {"kept"}
    again = fetch(one, refresh="on")
    assert (again.kept, again.withdrawn, again.known) == (0, 0, 4)
    assert again.requests == 2  # the listing, and the record that has not changed


def test_a_published_version_is_preferred_to_a_newer_manuscript(service, fetch, tmp_path):
    published, manuscript = plain(37), plain(37, version=2, said={"is_manuscript": True})
    service.add(published, manuscript)
    fetch(published)
    assert {name.partition("/")[0] for name in outcomes(tmp_path / "raw")} == {"PMC37.1"}
    assert fetch(published).requests == 0
    alone = plain(38, said={"is_manuscript": True})
    service.add(alone)
    assert fetch(alone).kept == 4


def test_a_retraction_takes_back_what_was_kept(service, fetch, tmp_path):
    article = plain(39)
    service.add(article)
    fetch(article)
    service.add(replace(article, said={"is_retracted": True}))
    done = fetch(article, refresh="on")
    assert (done.withdrawn, done.refused) == (3, 1)
    assert set(outcomes(tmp_path / "raw").values()) == {"withdrawn article.retracted"}
    again = fetch(article, refresh="on")
    assert (again.withdrawn, again.refused) == (0, 3)
    service.add(article)
    assert fetch(article, refresh="on").kept == 4
    assert set(outcomes(tmp_path / "raw").values()) == {"kept"}


def test_a_changed_article_is_asked_only_for_what_changed(service, fetch, tmp_path):
    article = plain(40)
    service.add(article)
    fetch(article)
    shorter = replace(article, figures=article.figures[:1], word="mass")
    service.add(shorter)
    service.server.seen.clear()
    done = fetch(article, refresh="on")
    assert service.asked == ["list PMC40.", article.record_key, article.xml_key]
    assert (done.kept, done.known) == (2, 1)
    assert outcomes(tmp_path / "raw")[f"{article.folder}/{article.figures[1].files[0]}"] == "refused media.unnamed"
    must_be_what_the_service_gave(tmp_path / "raw", service)
    assert fetch(article).asked == 3


def test_limits_stop_a_run_that_goes_on_later(service, fetch, tmp_path):
    service.add(*MANY)
    assert fetch(*MANY, limit="3").kept == len(kept(tmp_path / "raw")) == 3 + 3 + 1 + 2 + 3
    few = fetch(*MANY, max_bytes="4000", workers="1", to=tmp_path / "few")
    assert 4000 <= few.bytes < sum(len(data) for data in service.objects.values()) / 2
    fetch(*MANY)
    fetch(*MANY, to=tmp_path / "few")
    assert kept(tmp_path / "raw") == kept(tmp_path / "few")


def test_ids_come_from_a_file_too(service, fetch, tmp_path):
    service.add(plain(45), plain(46))
    (tmp_path / "ids.csv").write_text("\ufeff# mine\nPMC45,a title\nPMC46\n\npmc45\n")
    assert fetch(ids_file=str(tmp_path / "ids.csv")).kept == 8


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "one of ids=…, ids_file=…, query=…, inventory=on; none is"),
        ({"ids": "PMC1", "inventory": "on"}, "ids and inventory are named"),
        ({"ids": "PMC1,x10"}, "'x10' is no PMCID"),
        ({"ids": ""}, "no id is named"),
        ({"ids_file": "nowhere.txt"}, "cannot read ids_file"),
        ({"ids": "PMC1", "tiers": "opem"}, "known are open, nc, nd, other"),
        ({"ids": "PMC1", "workers": "0"}, "workers must be 1 to 64"),
        ({"ids": "PMC1", "limit": "many"}, "limit=many is not int"),
        ({"idz": "PMC1"}, "service pmc has no parameter 'idz'; it knows ids"),
    ],
)
def test_mistakes_are_told_before_anything_is_asked(service, fetch, settings, says):
    with pytest.raises(ConfigError, match=says):
        fetch(**settings)
    assert service.asked == []


def test_a_query_names_the_articles(service, fetch, tmp_path, monkeypatch):
    many = [plain(n, n_figures=1) for n in (91, 92, 93)]
    service.add(*many, plain(94))
    with loopback(Eutils({article.number: b"" for article in many})) as eutils:
        monkeypatch.setenv("MEDLOOM_EUTILS_URL", eutils.url)
        assert fetch(query="open_access[Filter]", limit="2", counts_all=False).kept == 2 * 3
        done = fetch(query="open_access[Filter]", counts_all=False)
    assert (done.kept, done.known) == (3, 6)
    assert {row["article"] for row in rows(tmp_path / "raw").values()} == {article.folder for article in many}


def test_ids_of_other_kinds_are_converted_once(service, fetch, tmp_path, monkeypatch):
    service.add(plain(95))
    pmc95 = {"pmcid": "PMC95", "pmid": 950, "doi": "10.9999/case.95"}
    with loopback(IdConverter([pmc95])) as converter:
        monkeypatch.setenv("MEDLOOM_IDCONV_URL", f"{converter.url}/tools/idconv/api/v1/articles")
        for _ in range(2):
            done = fetch(ids="10.9999/case.95,950,PMC95,10.9999/unknown", counts_all=False)
            assert dict(done.reasons) == {"article.not_found": 1}
            assert len(converter.seen) == 2  # a call for each kind of id
    assert done.known == 4


def test_an_object_that_was_deleted_is_fetched_again_on_demand(service, fetch, tmp_path):
    article = plain(96)
    service.add(article)
    fetch(article)
    before = kept(tmp_path / "raw")
    for name in (article.xml_key, article.record_key, f"{article.folder}/{article.figures[0].files[0]}"):
        (tmp_path / "raw" / RawZone(str(tmp_path / "raw")).object_path(before[name])).unlink()
        service.server.seen.clear()
        fetch(article, refresh="on")
        assert [asked for asked in service.asked if asked == name] == [name]
        must_be_what_the_service_gave(tmp_path / "raw", service)
    assert kept(tmp_path / "raw") == before


def test_a_graphic_that_is_called_as_the_article_replaces_nothing(service, fetch, tmp_path):
    article = plain(97, figures=(Figure("PMC97.1.xml", ()), Figure("x", ("x.jpg",))))
    service.add(article)
    fetch(article)
    fetch(article, refresh="on")
    assert Counter(outcomes(tmp_path / "raw").values()) == {"kept": 2, "refused media.unavailable": 1}
    assert article.xml_key in kept(tmp_path / "raw")


def test_two_articles_share_one_object_for_equal_bytes(service, fetch, tmp_path):
    first, second = plain(47), plain(48)
    service.add(first, second)
    same = b"\xff\xd8same picture"
    for article in (first, second):
        key = f"{article.folder}/{article.figures[0].files[0]}"
        record = json.loads(service.objects[article.record_key])
        record["media_urls"][0] = f"s3://b/{key}?md5={hashlib.md5(same).hexdigest()}"
        service.objects.update({key: same, article.record_key: json.dumps(record).encode()})
    fetch(first, second)
    digest = hashlib.sha256(same).hexdigest()
    assert list(kept(tmp_path / "raw").values()).count(digest) == 2
    assert len([p for p in (tmp_path / "raw/objects").rglob("*") if p.is_file()]) == 7
