"""Retractions: an article that was taken back, told from the notice that takes it back and names it."""

import pytest

from medloom.connectors.jats import parse_article
from tests.connectors.test_jats import PMCID, article


@pytest.mark.parametrize(
    ("kind", "link", "ids"),
    [
        (
            "retracted-article",
            'ext-link-type="doi" xlink:href="10.1371/Journal.pone.0001"',
            ["10.1371/journal.pone.0001"],
        ),
        ("retracted-article", 'xlink:href="info:doi/10.1371/journal.pone.0001"', ["10.1371/journal.pone.0001"]),
        ("retracted-article", 'ext-link-type="pmc" xlink:href="PMC123"', ["PMC123"]),
        ("retracted-article", 'ext-link-type="pubmed" xlink:href="23193287"', ["23193287"]),
        ("retracted-article", "", []),
        ("corrected-article", 'xlink:href="10.1371/journal.pone.0001"', []),
        ("retraction-forward", 'xlink:href="10.1371/journal.pone.0001"', []),
    ],
)
def test_a_notice_names_the_article_that_it_takes_back(kind: str, link: str, ids: list[str]) -> None:
    meta = f'{PMCID}<related-article related-article-type="{kind}" {link}/>'
    assert parse_article(article("<p>x</p>", meta=meta), source="a")["article"][0]["retracts"] == ids


@pytest.mark.parametrize(
    ("title", "link", "retracted"),
    [
        ("RETRACTED: A study", "", True),
        ("Retraction: a study", "retracted-article", False),
        ("A study", "retraction-forward", True),
        ("Patients withdrawn from care", "", False),
    ],
)
def test_retracted_articles_are_told_from_notices(title: str, link: str, retracted: bool) -> None:
    meta = (
        f"{PMCID}<title-group><article-title>{title}</article-title>"
        f'</title-group><related-article related-article-type="{link}"/>'
    )
    assert parse_article(article("<p>x</p>", meta=meta), source="a")["article"][0]["is_retracted"] is retracted
