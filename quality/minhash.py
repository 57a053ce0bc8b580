"""MinHash of texts: which articles and captions say the same in nearly the same words.

A text is the set of its runs of consecutive words; two texts are as near as their sets overlap (Jaccard). What is too
short is no text of its own: "Supplementary figure" stands below figures of any article, and says nothing of them.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from medloom.schemas.errors import ConfigError

PERMUTATIONS = 128
SEED = 1
BANDS = 32  # of 4 values: two texts that overlap by 0.6 share a band with probability 0.99, by 0.2 with 0.05
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")  # scripts without spaces: sign by sign
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses no bit


@dataclass(frozen=True)
class TextKind:
    """What makes a text of one kind a near-duplicate.

    Attributes:
        run_words: length of the runs whose sets are compared.
        min_words: a text of fewer is not compared.
        min_overlap: Jaccard from which two texts are near-duplicates.
    """

    name: str
    run_words: int
    min_words: int
    min_overlap: float


# Of 222 articles of PLOS and PMC no two different ones overlap by more than 0.01 in runs of five words, so that half of
# them is a version, a preprint or a reprint. Of their 1,116 longer captions those that overlap by more than 0.76 belong
# to one article.
ARTICLE = TextKind("article", run_words=5, min_words=120, min_overlap=0.5)
CAPTION = TextKind("caption", run_words=3, min_words=24, min_overlap=0.8)


def words(text: str) -> list[str]:
    """Return the words of a text, lower-case, without punctuation."""
    return _WORD.findall(text.lower())


def runs(text: list[str], kind: TextKind) -> list[str]:
    """Return the distinct runs of consecutive words, in the order of the text; none when it is too short."""
    if len(text) < kind.min_words:
        return []
    starts = range(len(text) - kind.run_words + 1)
    return list(dict.fromkeys(" ".join(text[i : i + kind.run_words]) for i in starts))


def run_hashes(texts: list[list[str]]) -> list[list[int]]:
    """Return 64-bit hashes of each text's runs, the same on every machine.

    Raises:
        ConfigError: the library is missing.
    """
    return _rensa().RMinHash.hash_token_sets(texts)


def band_keys(hashes: list[list[int]]) -> np.ndarray:
    """Return `BANDS` keys of each text, int64 (n, `BANDS`); texts that overlap enough share at least one.

    Args:
        hashes: of each text's runs, see `run_hashes`; no text without any.
    """
    if not hashes:
        return np.empty((0, BANDS), np.int64)
    matrix = _rensa().RMinHash.digest_matrix_from_token_hash_sets(hashes, PERMUTATIONS, SEED)
    values = np.array(matrix.to_rows(), np.uint64).reshape(len(hashes), BANDS, PERMUTATIONS // BANDS)
    keys = np.broadcast_to(np.arange(BANDS, dtype=np.uint64), (len(hashes), BANDS))
    with np.errstate(over="ignore"):
        for i in range(values.shape[2]):
            keys = (keys ^ values[:, :, i]) * _MIX
            keys = keys ^ (keys >> np.uint64(29))
    return keys.view(np.int64)


def must_be_installed() -> None:
    """Check that texts can be hashed.

    Raises:
        ConfigError: the library is missing.
    """
    _rensa()


def _rensa() -> Any:
    try:
        import rensa
    except ImportError:
        raise ConfigError(
            "near-duplicate texts are found with rensa, which is not installed: pip install 'medloom[spark]', or "
            "release with --no-near"
        ) from None
    return rensa
