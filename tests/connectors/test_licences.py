"""Licence statements as publishers write them, and the terms they come to."""

import pytest

from medloom.connectors.licences import figure_terms, read_licence
from medloom.schemas.origin import TERMS

BY = "https://creativecommons.org/licenses/by/4.0/"
ATTRIBUTION = "This is an open access article distributed under the terms of the Creative Commons Attribution License."
WAIVER = (
    " The Creative Commons Public Domain Dedication waiver (http://creativecommons.org/publicdomain/zero/1.0/) applies "
    "to the data made available in this article, unless otherwise stated."
)


@pytest.mark.parametrize(
    ("stated", "code", "terms", "evidence"),
    [
        ({"refs": [BY], "text": ATTRIBUTION}, "CC-BY-4.0", "cc-by", "license_ref"),
        (
            {"hrefs": ["http://creativecommons.org/licenses/by-nc-nd/3.0/"]},
            "CC-BY-NC-ND-3.0",
            "cc-by-nc-nd",
            "license_href",
        ),
        ({"links": [BY], "text": ATTRIBUTION}, "CC-BY-4.0", "cc-by", "license_link"),
        (
            {"links": [BY, "http://creativecommons.org/publicdomain/zero/1.0/"], "text": ATTRIBUTION + WAIVER},
            "CC-BY-4.0",
            "cc-by",
            "license_link",
        ),
        ({"text": ATTRIBUTION + WAIVER}, "CC-BY", "cc-by", "license_text"),
        ({"types": ["ccbynclicense"], "text": ""}, "CC-BY-NC", "cc-by-nc", "license_type"),
        (
            {"text": ATTRIBUTION.replace("Attribution", "Attribution Non-Commercial Share Alike 4.0")},
            "CC-BY-NC-SA-4.0",
            "cc-by-nc-sa",
            "license_text",
        ),
        ({"text": "Licença Creative Commons Atribuição Não Comercial"}, "CC-BY-NC", "cc-by-nc", "license_text"),
        (
            {"text": "free of all copyright, under the Creative Commons CC0 public domain dedication"},
            "CC0-1.0",
            "cc0-1.0",
            "license_text",
        ),
        (
            {"hrefs": ["http://creativecommons.org/publicdomain/mark/1.0/"]},
            "public-domain",
            "public-domain",
            "license_href",
        ),
        ({"text": "All rights reserved."}, "", "unknown", ""),
        ({}, "", "unknown", ""),
        ({"types": ["open-access"]}, "", "unknown", ""),
    ],
)
def test_statements_come_to_terms(stated: dict[str, object], code: str, terms: str, evidence: str) -> None:
    licence = read_licence(**stated)  # type: ignore[arg-type]
    assert (licence.code, licence.terms_id, licence.evidence, licence.conflict) == (code, terms, evidence, False)
    assert licence.terms_id in TERMS


def test_where_statements_disagree_the_strictest_holds_and_the_conflict_is_told() -> None:
    licence = read_licence(refs=[BY], text="Creative Commons Attribution NonCommercial License")
    assert (licence.terms_id, licence.conflict, licence.evidence) == ("cc-by-nc", True, "license_text")
    assert not read_licence(refs=["https://creativecommons.org/publicdomain/mark/1.0/"], types=["cc0license"]).conflict


@pytest.mark.parametrize(
    ("caption", "terms"),
    [
        ("Map. Reproduced with permission from [3]. Copyright 2020, Wiley.", "reproduced-with-permission"),
        ("Reprinted with the permission from Ref. 46. Copyright © 2023", "reproduced-with-permission"),
        ("Source: Adapted from Smith (2008).", "reproduced-with-permission"),
        ("Photo courtesy of J. Doe.", "reproduced-with-permission"),
        ("Republished from [1] under a CC BY license, with permission from X.", "cc-by"),
        ("(A) With the permission of the board, we did.", ""),
        ("(C) Cells were adapted to the dark.", ""),
        ("(C) 12 mice; modified medium.", ""),
    ],
)
def test_captions_tell_borrowed_figures(caption: str, terms: str) -> None:
    statement, terms_id = figure_terms("", caption)
    assert terms_id == terms
    assert statement in caption
    assert bool(statement) == bool(terms)
