import hashlib
import hmac
import json
from base64 import b32decode
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medloom.schemas.keys import Identity, canonical_json, digest_of, example_id, figure_key, fingerprint, is_key, slug

TEXT = st.text(max_size=80)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True), TEXT, TEXT)
def test_a_figure_always_gets_a_key(unit, xml_id, fallback):
    key = figure_key(unit, xml_id, fallback)
    assert is_key(key)
    assert figure_key(unit, xml_id, fallback) == key
    assert key.startswith(unit[:40])


@given(st.from_regex(r"[a-z0-9_-]{52,64}", fullmatch=True), TEXT, TEXT)
def test_a_long_unit_still_gets_a_key(unit, xml_id, fallback):
    assert is_key(figure_key(unit, xml_id, fallback))


def test_keys_are_what_the_design_says():
    assert figure_key("pmc7500000-1", "F2", "x") == "pmc7500000-1-f2"
    digits = hashlib.sha256(b"x").hexdigest()[:12]
    assert figure_key("pmc7500000-1", "", "x") == f"pmc7500000-1-{digits}"
    assert figure_key("pmc7500000-1", "f" * 80, "x") == f"pmc7500000-1-{digits}"
    assert slug("Fig. 2 (A)") == "fig-2-a"


@pytest.mark.parametrize("text", ["", "A", "a.b", "ä", "a b", "x" * 65, "a/b", "a\n", "..", "k%", "ａ"])
def test_what_is_no_key(text):
    assert not is_key(text)


@given(PLAIN)
def test_canonical_json_is_json_and_stable(value):
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text
    assert " " not in canonical_json({"a": [1, 2], "b": None})


@given(st.dictionaries(TEXT, st.integers(), max_size=6))
def test_canonical_json_ignores_the_order_of_keys(value):
    turned = dict(reversed(list(value.items())))
    assert canonical_json(turned) == canonical_json(value)


def test_canonical_json_keeps_what_differs_apart():
    @dataclass(frozen=True)
    class One:
        x: int = 1
        where: str = field(default="", metadata={"decides": False})

    @dataclass(frozen=True)
    class Two:
        x: int = 1

    assert canonical_json(One()) == '{"is":"One","x":1}'
    assert canonical_json(One(where="here")) == canonical_json(One())
    assert canonical_json(One()) != canonical_json(Two())
    assert canonical_json({"b", "a"}) == '["a","b"]'
    with pytest.raises(TypeError, match="no canonical form"):
        canonical_json(object())
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_fingerprints_are_fixed_for_ever():
    text = '["media",{"a":1},null]'
    assert fingerprint("media", {"a": 1}, None) == hashlib.sha256(text.encode()).hexdigest()
    assert digest_of(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    wanted = hashlib.sha256(b"ff|u1|q0").hexdigest()[:24]
    assert example_id("vqa", "ff", "u1", "q0") == f"vqa-{wanted}"


@given(st.binary(min_size=1, max_size=40), TEXT, TEXT)
def test_tokens_are_hmac_of_kind_and_value(secret, kind, value):
    token = Identity(secret).token(kind, value)
    wanted = hmac.new(secret, f"{kind}\0{value}".encode(), hashlib.sha256).digest()[:10]
    assert b32decode(token.upper()) == wanted
    assert len(token) == 16
    assert is_key(token)
    assert token != Identity(None).token(kind, value)


def test_the_id_of_a_secret_gives_no_token_away():
    one, other = Identity(b"one"), Identity(b"other")
    assert one.key_id != other.key_id
    assert Identity(None).key_id == "none"
    assert one.token("patient", "x") != other.token("patient", "x")
    assert one.token("patient", "x") != one.token("study", "x")
