import pytest

from medloom.connectors.licences import code_terms, strictest
from medloom.pipelines.fetch import gates
from medloom.schemas.errors import ConfigError, Refused
from medloom.schemas.origin import TERMS


def reason(call, *args: object, **kwargs: object) -> str:
    """The reason that a gate gives, "" when it lets through."""
    try:
        call(*args, **kwargs)
    except Refused as refused:
        return refused.reason
    return ""


def article(terms_id: str, *, is_retracted: bool = False) -> dict:
    return {"terms_id": terms_id, "is_retracted": is_retracted}


def figure(terms_id: str = "") -> dict:
    return {"terms_id": terms_id, "label": "Figure 1.", "xml_id": "F1"}


@pytest.mark.parametrize(
    ("code", "terms_id"),
    [
        ("CC BY", "cc-by"), ("CC BY-NC", "cc-by-nc"), ("CC BY-NC-ND", "cc-by-nc-nd"), ("CC BY-SA", "cc-by-sa"),
        ("CC BY-ND", "cc-by-nd"), ("CC BY-NC-SA", "cc-by-nc-sa"), ("CC0", "cc0-1.0"), ("TDM", "tdm"),
        ("cc by-nc-nd", "cc-by-nc-nd"), ("cc0", "cc0-1.0"), ("NO-CC CODE", "unknown"), ("", "unknown"),
        ("CC BYE", "unknown"), ("CC BY 4.0", "cc-by"),
    ],
)  # fmt: skip
def test_licence_codes_of_services_are_terms(code, terms_id):
    assert code_terms(code) == terms_id


def test_the_strictest_terms_permit_no_more_than_the_others():
    stated = ["cc-by", "cc-by-nc", "cc-by-nd", "cc0-1.0"]
    assert strictest(stated) == "cc-by-nc"
    assert strictest(["cc0-1.0", "cc-by"]) == "cc-by"
    assert strictest(["cc-by-nc-nd", "tdm"]) == "tdm"


@pytest.mark.parametrize("terms_id", TERMS)
def test_tiers_take_away_what_the_table_of_terms_says(terms_id):
    terms, tiers = TERMS[terms_id], gates.tiers_of(terms_id)
    assert tiers <= set(gates.TIERS)
    assert ("other" in tiers) == (not terms.redistribution)
    if terms.redistribution:
        assert ("nc" in tiers) == (not terms.commercial)
        assert ("nd" in tiers) == (not terms.derivatives)
        assert (tiers == {"open"}) == (terms.commercial and terms.derivatives)


def test_a_licence_without_both_needs_both_tiers():
    allows = [tiers for tiers in (("open",), ("open", "nc"), ("open", "nd"), ("nc", "nd"), ("open", "nc", "nd"))
              if not reason(gates.must_be_of, "cc-by-nc-nd", tiers, "x")]  # fmt: skip
    assert allows == [("nc", "nd"), ("open", "nc", "nd")]


def test_a_refusal_says_which_tiers_would_let_it_pass():
    with pytest.raises(Refused, match=r"terms\.tier: .*cc-by-nc-nd, which tiers=open,nc,nd would let pass"):
        gates.must_be_of("cc-by-nc-nd", ("open", "nc"), "licence")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ""),
        ({"is_open_access": False}, "article.not_open_access"),
        ({"is_retracted": True}, "article.retracted"),
        ({"licence_code": "TDM"}, "terms.tier"),
        ({"licence_code": "CC BY-ND"}, "terms.tier"),
        ({"licence_code": None}, ""),  # the article itself may state one
        ({"licence_code": "NO-CC CODE"}, ""),
        ({"licence_code": "CC BY-ND", "tiers": ("open", "nd")}, ""),
    ],
)
def test_a_record_is_held_against_the_gates(facts, expected):
    usual = {"is_open_access": True, "is_retracted": False, "licence_code": "CC BY", "tiers": ("open",)}
    assert reason(gates.must_be_fetchable, **usual | facts) == expected


@pytest.mark.parametrize(
    ("stated", "code", "expected"),
    [
        ("cc-by", "CC BY", ""),
        ("cc-by", None, ""),
        ("unknown", "CC BY", ""),  # the record's word is what there is
        ("unknown", None, "terms.tier"),
        ("unknown", "NO-CC CODE", "terms.tier"),
        ("cc-by-nc", "CC BY", "terms.tier"),  # they disagree: the stricter holds
        ("cc-by", "CC BY-NC", "terms.tier"),
        ("cc0-1.0", "CC BY", ""),
    ],
)
def test_of_two_statements_the_stricter_holds(stated, code, expected):
    assert reason(gates.must_be_readable, article(stated), licence_code=code, tiers=("open",)) == expected


def test_an_article_that_says_it_is_retracted_is_refused_whatever_its_record_says():
    given = {"licence_code": "CC BY", "tiers": gates.TIERS}
    assert reason(gates.must_be_readable, article("cc-by", is_retracted=True), **given) == "article.retracted"


@pytest.mark.parametrize("tiers", [("open",), gates.TIERS])
def test_a_figure_by_permission_of_others_is_never_shown(tiers):
    third = figure("reproduced-with-permission")
    assert reason(gates.must_be_shown_freely, third, terms_id="cc-by", tiers=tiers) == "terms.third_party"


def test_a_figures_own_licence_overrides_the_articles():
    assert reason(gates.must_be_shown_freely, figure("cc-by-nc"), terms_id="cc-by", tiers=("open",)) == "terms.tier"
    assert reason(gates.must_be_shown_freely, figure("cc-by-nc"), terms_id="cc-by", tiers=("open", "nc")) == ""
    assert reason(gates.must_be_shown_freely, figure("cc-by"), terms_id="cc-by-nc", tiers=("open",)) == ""
    assert reason(gates.must_be_shown_freely, figure(), terms_id="cc-by-nc", tiers=("open",)) == "terms.tier"


@pytest.mark.parametrize("tiers", [(), ("opem",), ("open", "")])
def test_unknown_tiers_list_the_known_ones(tiers):
    with pytest.raises(ConfigError, match="known are open, nc, nd, other"):
        gates.check_tiers(tiers)
