"""Texts that share most of their runs of words are near, whatever their case and punctuation."""

import random
import sys

import numpy as np
import pytest

from medloom.quality.minhash import ARTICLE, BANDS, CAPTION, band_keys, must_be_installed, run_hashes, runs, words
from medloom.schemas.errors import ConfigError

VOCABULARY = [f"word{i}" for i in range(3000)]


def article(seed: int, n: int = 600) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=n)


def overlap(a: list[str], b: list[str]) -> float:
    one, other = set(runs(a, ARTICLE)), set(runs(b, ARTICLE))
    return len(one & other) / len(one | other)


def keys(*texts: list[str]) -> np.ndarray:
    return band_keys(run_hashes([runs(text, ARTICLE) for text in texts]))


def test_words_are_without_case_and_punctuation_and_signs_of_scripts_without_spaces():
    assert words("A mass (3.2 cm), seen: “Left”!") == ["a", "mass", "3", "2", "cm", "seen", "left"]
    assert words("肺结节") == ["肺", "结", "节"]
    assert words("été_naïve") == ["été", "naïve"]
    assert words(" — … ") == []


def test_what_is_too_short_has_no_runs():
    for text in ("", "figure", "Supplementary figure", "word " * (CAPTION.min_words - 1)):
        assert runs(words(text), CAPTION) == []
    assert runs(article(1, ARTICLE.min_words - 1), ARTICLE) == []
    assert len(runs(article(1, ARTICLE.min_words), ARTICLE)) == ARTICLE.min_words - ARTICLE.run_words + 1


def test_a_text_of_one_word_said_again_and_again_is_one_run():
    assert runs(["figure"] * 500, ARTICLE) == [" ".join(["figure"] * 5)]
    assert keys(["figure"] * 500).shape == (1, BANDS)


@pytest.mark.parametrize("changed", [0.01, 0.03, 0.05])
def test_a_version_with_changed_words_shares_a_band(changed):
    found = 0
    for seed in range(20):
        draw, text = random.Random(seed), article(seed)
        other = [w if draw.random() > changed else "changed" for w in text]
        assert overlap(text, other) > ARTICLE.min_overlap
        one, two = keys(text, other)
        found += bool((one == two).any())
    assert found == 20


def test_other_articles_share_no_band():
    found = keys(*(article(seed) for seed in range(60)))
    assert all(len(set(found[:, band].tolist())) == 60 for band in range(BANDS))


def test_keys_are_the_same_in_any_order_of_runs_and_in_any_run_of_the_program():
    text = runs(article(1), ARTICLE)
    assert (band_keys(run_hashes([text])) == band_keys(run_hashes([text[::-1]]))).all()
    assert int(keys(article(1))[0, 0]) == FIRST_KEY


def test_a_missing_library_is_said_with_what_to_install_or_leave_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(ConfigError, match=r"medloom\[spark\].*--no-near"):
        must_be_installed()


def test_no_texts_have_no_keys():
    assert band_keys([]).shape == (0, BANDS)


FIRST_KEY = 7742292190648525185
