import io
import json
import zipfile
from dataclasses import replace

import pytest
from tests.services.articles import Article, deep
from tests.services.europepmc import REST, EuropePmc, picture, result, said, service, zip_of
from tests.services.fetches import everything_in, held, kept, killed, reasons, run
from tests.services.loopback import Loopback, Reply, loopback

from medloom.schemas.errors import ConfigError, RetryLater, SourceError
from medloom.schemas.raw import RawZone

QUERY = 'OPEN_ACCESS:Y AND PUB_TYPE:"Case Reports"'
ARTICLES = tuple(Article(n, figures=((f"a{n}g1", "Seen."), (f"a{n}g2", "Seen again."))) for n in range(101, 113))
NO_DERIVATIVES = "Seen. This figure is under the Creative Commons Attribution-NoDerivatives licence CC BY-ND 4.0."
PERMITTED = "Reproduced with permission from Elsevier, 2010."


@pytest.fixture
def serve(monkeypatch):
    contexts = []

    def start(held: EuropePmc) -> Loopback:
        contexts.append(loopback(held))
        server = contexts[-1].__enter__()
        monkeypatch.setenv("MEDLOOM_EUROPEPMC_URL", server.url + REST)
        return server

    yield start
    for context in contexts:
        context.__exit__(None, None, None)


def asked(server: Loopback) -> list[str]:
    """What was asked but searches, as "PMC101/fullTextXML", sorted."""
    return sorted(path.removeprefix(f"{REST}/") for path in server.paths if not path.endswith("/search"))


def content(to, name: str) -> bytes:
    return RawZone(str(to)).read(held(to)[name]["digest"])


def test_articles_are_kept_with_the_files_of_their_figures_and_nothing_else_of_the_zip(serve, tmp_path):
    held_by = service(*ARTICLES)
    held_by.zips["PMC101"] = zip_of(
        {"a101g1.jpg": picture("x"), "deep/down/a101g2.tif": b"II*\0", "s1.xlsx": b"PK", "a101g1.gif": b"GIF89a"}
    )
    serve(held_by)
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.asked, done.kept, done.known, done.refused) == (36, 36, 0, 0)
    names = {name for name in kept(tmp_path / "raw") if name.startswith("PMC101.")}
    assert names == {"PMC101.1/PMC101.1.xml", "PMC101.1/a101g1.jpg", "PMC101.1/a101g2.tif"}
    assert content(tmp_path / "raw", "PMC101.1/a101g1.jpg") == picture("x")
    listed = json.loads(content(tmp_path / "raw", "PMC101.1/files"))
    assert [one["name"] for one in listed] == ["a101g1.gif", "a101g1.jpg", "deep/down/a101g2.tif", "s1.xlsx"]
    assert b"s1.xlsx" in everything_in(tmp_path / "raw")
    assert held(tmp_path / "raw")["PMC101.1/a101g1.jpg"]["md5"]


def test_a_run_again_asks_for_nothing_but_the_search(serve, tmp_path):
    held_by = service(
        *ARTICLES, Article(200), Article(201, figures=(("lost", "Seen."),)), Article(202, retracted=True),
        Article(203, licence="CC BY-NC"), Article(204, licence=""), Article(205, front_only=True),
    )  # fmt: skip
    held_by.results.append({"id": "PPR1", "source": "PPR", "title": "A preprint", "isOpenAccess": "Y"})
    held_by.results.append({"id": "uk.bl.ethos.508945", "source": "ETH", "title": "A thesis"})
    held_by.results.append(result(Article(206), isOpenAccess="N"))
    held_by.results.append(result(Article(207)))
    held_by.texts["PMC207"] = Article(207, front_only=True).xml()
    del held_by.zips["PMC201"]
    server = serve(held_by)
    first = run("europepmc", tmp_path / "raw", query=QUERY)
    before = held(tmp_path / "raw")
    server.seen.clear()
    again = run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == []
    assert (again.asked, again.known, again.refused) == (first.asked, first.kept, first.refused)
    assert again.kept == 0
    assert again.reasons == first.reasons
    assert held(tmp_path / "raw") == before
    assert {name: reason for name, reason in reasons(tmp_path / "raw").items()} == {
        "PMC201.1/lost": "media.unavailable",
        "PMC201.1/files": "europepmc.no_files",
        "PMC202/PMC202.xml": "article.retracted",
        "PMC203/PMC203.xml": "terms.tier",
        "PMC204.1/PMC204.1.xml": "terms.tier",
        "PMC205/PMC205.xml": "europepmc.no_full_text",
        "PMC206/PMC206.xml": "article.not_open_access",
        "PMC207/PMC207.xml": "article.not_open_access",
        "europepmc/ppr-ppr1": "article.no_pmcid",
        "europepmc/eth-uk-bl-ethos-508945": "article.no_pmcid",
    }


def test_the_gates_hold_before_a_byte_of_media_moves(serve, tmp_path):
    figures = (("g1", "Seen."),)
    server = serve(service(
        Article(1, figures=figures, retracted=True), Article(2, figures=figures, licence="CC BY-NC-ND"),
        Article(3, figures=figures, licence=""), Article(4, figures=(("g1", PERMITTED), ("g2", PERMITTED))),
        Article(5),
    ))  # fmt: skip
    server.answer.results[2]["license"] = "cc by"  # the record says so, and the article states nothing
    server.answer.results[0]["pubTypeList"] = {}  # the record does not know of the retraction
    run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == [
        "PMC1/fullTextXML", "PMC3/fullTextXML", "PMC3/supplementaryFiles", "PMC4/fullTextXML", "PMC5/fullTextXML",
    ]  # fmt: skip
    assert reasons(tmp_path / "raw") == {
        "PMC1.1/PMC1.1.xml": "article.retracted", "PMC2/PMC2.xml": "terms.tier",
        "PMC4.1/g1": "terms.third_party", "PMC4.1/g2": "terms.third_party",
    }  # fmt: skip


def test_a_figure_shown_by_permission_is_not_taken_out_of_the_zip(serve, tmp_path):
    shared = (("both", "Ours."), ("both", PERMITTED), ("twice", PERMITTED), ("twice", "Ours."))
    serve(service(Article(1, figures=(("ours", "Seen."), ("theirs", PERMITTED), *shared))))
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.refused) == (2, 3)
    assert reasons(tmp_path / "raw") == dict.fromkeys(
        ["PMC1.1/theirs.jpg", "PMC1.1/both.jpg", "PMC1.1/twice.jpg"], "terms.third_party"
    )
    assert picture("theirs") not in everything_in(tmp_path / "raw")
    assert picture("ours") in everything_in(tmp_path / "raw")


def test_other_tiers_later_ask_only_for_what_they_add(serve, tmp_path):
    articles = [
        Article(1, figures=(("g1", "Seen."), ("g2", NO_DERIVATIVES))),
        Article(2, licence="CC BY-ND", figures=(("h1", "Seen."),)),
        Article(3, figures=(("k1", "Seen."),)), Article(4, licence="CC BY-NC"),
    ]  # fmt: skip
    server = serve(service(*articles))
    first = run("europepmc", tmp_path / "raw", query=QUERY)
    assert first.reasons == {"terms.tier": 3}
    assert asked(server) == [f"PMC{n}/{what}" for n in (1, 3) for what in ("fullTextXML", "supplementaryFiles")]
    server.seen.clear()
    assert run("europepmc", tmp_path / "raw", query=QUERY).requests == 1
    second = run("europepmc", tmp_path / "raw", query=QUERY, tiers="open,nd")
    assert asked(server) == ["PMC1/supplementaryFiles", "PMC2/fullTextXML", "PMC2/supplementaryFiles"]
    assert (second.kept, second.known, second.refused) == (3, 4, 1)
    server.seen.clear()
    narrower = run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == []
    assert (narrower.kept, narrower.known) == (0, 7)
    assert {"PMC1.1/g2.jpg", "PMC2.1/h1.jpg"} <= kept(tmp_path / "raw")


def test_an_article_retracted_later_is_withdrawn_with_its_media(serve, tmp_path):
    held_by = service(*ARTICLES[:2])
    server = serve(held_by)
    run("europepmc", tmp_path / "raw", query=QUERY)
    held_by.results[0]["pubTypeList"]["pubType"].append("Retracted Publication")
    server.seen.clear()
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.withdrawn, done.known, done.refused) == (3, 3, 1)
    assert set(reasons(tmp_path / "raw")) == {"PMC101.1/PMC101.1.xml", "PMC101.1/a101g1.jpg", "PMC101.1/a101g2.jpg"}
    again = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (again.withdrawn, again.known, again.refused) == (0, 3, 1)
    assert asked(server) == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 7, 20])
def test_a_killed_fetch_run_again_equals_an_unbroken_one(serve, tmp_path, at):
    server = serve(service(*ARTICLES))
    unbroken = run("europepmc", tmp_path / "unbroken", query=QUERY)
    killed("europepmc", tmp_path / "killed", server, at, query=QUERY)
    resumed = run("europepmc", tmp_path / "killed", query=QUERY)
    assert held(tmp_path / "killed") == held(tmp_path / "unbroken")
    assert resumed.asked == unbroken.asked == 36


def test_what_another_service_kept_is_not_asked_for_and_what_it_lacked_is(serve, tmp_path):
    server = serve(service(*ARTICLES[:2]))
    zone = RawZone.at(str(tmp_path / "raw"))
    for article in ARTICLES[:2]:
        digest, size = zone.put(article.xml())
        row = {"article": article.name, "digest": digest, "size": size, "outcome": "kept"}
        stem = f"{article.name}/a{article.number}"
        zone.append([
            row | {"name": f"{article.name}/{article.name}.xml", "role": "article"},
            row | {"name": f"{stem}g1.jpg", "role": "media"},
            row | {"name": f"{stem}g2.jpg", "role": "media"}
            if article.number == 101
            else {"name": f"{stem}g2", "article": article.name, "role": "media", "outcome": "refused",
                  "reason": "media.unavailable"},
        ])  # fmt: skip
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == ["PMC102/supplementaryFiles"]
    assert (done.kept, done.known, done.refused) == (1, 5, 0)
    server.seen.clear()
    run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == []


def test_a_zip_that_cannot_be_had_for_now_is_asked_for_again_and_the_text_is_not(serve, tmp_path):
    server = serve(service(*ARTICLES[:3]))
    server.faults_of[f"{REST}/PMC102/supplementaryFiles"] = [Reply(504)] * 2
    done = run("europepmc", tmp_path / "raw", query=QUERY, workers=1)
    assert (done.kept, done.later) == (7, 1)
    server.seen.clear()
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == ["PMC102/supplementaryFiles"]
    assert (done.kept, done.known, done.later) == (2, 7, 0)


def test_a_service_that_is_down_ends_the_run_and_keeps_what_came_before(serve, tmp_path):
    server = serve(service(*ARTICLES))
    for article in ARTICLES[4:]:
        server.faults_of[f"{REST}/{article.pmcid}/fullTextXML"] = [Reply(503, b"maintenance")] * 2
    with pytest.raises(RetryLater, match="status 503"):
        run("europepmc", tmp_path / "raw", query=QUERY, workers=1)
    assert len(kept(tmp_path / "raw")) == 12
    server.faults_of.clear()
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.known) == (24, 12)


def bad_zips() -> dict[str, bytes]:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a101g1.jpg", b"\0" * (64 << 20))
    whole = zip_of({"a101g1.jpg": picture("x"), "a101g2.jpg": picture("y")})
    return {"bomb": bomb.getvalue(), "cut": whole[:-30], "none": b"PK\3\4 nothing"}


@pytest.mark.parametrize("name", ["bomb", "cut", "none"])
def test_a_hostile_zip_costs_its_own_figures_and_no_neighbours(serve, tmp_path, name):
    held_by = service(*ARTICLES[:3])
    held_by.zips["PMC101"] = bad_zips()[name]
    server = serve(held_by)
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.refused) == (7, 2)
    found = reasons(tmp_path / "raw")
    assert found.pop("PMC101.1/files").startswith("archive.")
    assert found == {"PMC101.1/a101g1": "media.unavailable", "PMC101.1/a101g2": "media.unavailable"}
    server.seen.clear()
    again = run("europepmc", tmp_path / "raw", query=QUERY)
    assert asked(server) == []
    assert again.refused == 2
    held_by.zips["PMC101"] = service(*ARTICLES).zips["PMC101"]
    mended = run("europepmc", tmp_path / "raw", query=QUERY, refresh=True)
    assert (mended.kept, mended.known, mended.refused) == (2, 7, 0)


def test_members_that_lead_outside_or_come_twice_are_names_and_not_paths(serve, tmp_path):
    held_by = service(*ARTICLES[:1])
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("../../a101g1.jpg", b"outside")
        archive.writestr("a101g2.jpg", picture("first"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a101g2.jpg", picture("second"))
    held_by.zips["PMC101"] = twice.getvalue()
    serve(held_by)
    run("europepmc", tmp_path / "raw", query=QUERY)
    assert reasons(tmp_path / "raw") == {"PMC101.1/a101g1.jpg": "archive.path"}
    assert content(tmp_path / "raw", "PMC101.1/a101g2.jpg") == picture("first")
    assert b"outside" not in everything_in(tmp_path / "raw")


def test_a_member_that_lies_about_its_bytes_is_refused_alone(serve, tmp_path):
    held_by = service(*ARTICLES[:1])
    damaged = bytearray(held_by.zips["PMC101"])
    damaged[damaged.index(b"a101g1.jpg") + 25] ^= 0xFF
    held_by.zips["PMC101"] = bytes(damaged)
    serve(held_by)
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.refused) == (2, 1)
    assert reasons(tmp_path / "raw") == {"PMC101.1/a101g1.jpg": "archive.damaged"}


def test_hostile_text_costs_itself(serve, tmp_path):
    held_by = service(*ARTICLES[:3])
    held_by.texts["PMC102"] = deep(102)
    serve(held_by)
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.reasons) == (6, {"jats.deep": 1})


def test_limits_count_articles_and_bytes_that_are_asked_for(serve, tmp_path):
    server = serve(service(*ARTICLES))
    run("europepmc", tmp_path / "raw", query=QUERY, limit=2)
    done = run("europepmc", tmp_path / "raw", query=QUERY, limit=2)
    assert (done.kept, done.known) == (6, 6)
    assert len(set(asked(server))) == len(asked(server)) == 8
    done = run("europepmc", tmp_path / "small", query=QUERY, max_bytes=1, workers=1)
    assert 0 < done.kept < 36


def test_figures_of_other_tiers_do_not_use_up_a_limit(serve, tmp_path):
    serve(service(*(Article(n, figures=(("g1", NO_DERIVATIVES),)) for n in range(1, 4))))
    for n in range(1, 3):
        assert run("europepmc", tmp_path / "raw", query=QUERY, limit=1).known == n - 1
    assert len(kept(tmp_path / "raw")) == 2


def test_without_media_only_the_text_is_kept_and_media_can_follow(serve, tmp_path):
    server = serve(service(*ARTICLES))
    assert run("europepmc", tmp_path / "raw", query=QUERY, media="off").kept == 12
    server.seen.clear()
    assert run("europepmc", tmp_path / "raw", query=QUERY, media="off").requests == 1
    done = run("europepmc", tmp_path / "raw", query=QUERY)
    assert (done.kept, done.known) == (24, 12)
    assert asked(server) == sorted(f"{a.pmcid}/supplementaryFiles" for a in ARTICLES)


def test_the_address_of_whoever_asks_stands_nowhere_in_the_zone(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOM_EMAIL", "someone@example.org")
    server = serve(service(*ARTICLES[:2]))
    run("europepmc", tmp_path / "raw", query=QUERY)
    assert server.seen[0].query["email"] == "someone@example.org"
    assert b"someone@example" not in everything_in(tmp_path / "raw")


def test_a_query_that_is_wrong_is_told_and_leaves_no_row(serve, tmp_path):
    server = serve(service(*ARTICLES))
    with pytest.raises(SourceError, match="error 400 inside HTTP 200"):
        run("europepmc", tmp_path / "raw", query="((")
    server.faults.append(said({"errCode": 400, "errMsg": "no"}))
    with pytest.raises(SourceError):
        run("europepmc", tmp_path / "raw", query=QUERY)
    assert not held(tmp_path / "raw")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({}, "needs --set query"), ({"query": " "}, "takes 1 to"), ({"query": "x", "tiers": "free"}, "names 'free'"),
     ({"query": "x", "workers": "0"}, "workers must be"), ({"query": "x", "limit": "-2"}, "not negative")],
)  # fmt: skip
def test_settings_that_cannot_be_are_told_before_anything_is_asked(serve, tmp_path, settings, message):
    server = serve(replace(service(*ARTICLES)))
    with pytest.raises(ConfigError, match=message):
        run("europepmc", tmp_path / "raw", **settings)
    assert not server.seen
