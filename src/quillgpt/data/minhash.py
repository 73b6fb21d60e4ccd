"""MinHash signatures of documents: two documents agree in as many places as their texts are similar.

The similarity of two texts is the share of their runs of five words that both have (Jaccard). Case and punctuation do
not count. In scripts without spaces between words, each character counts as a word.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.extras import import_extra

PLACES = 128
"""Places of a signature; the similarity that is estimated from it is off by about 0.04."""

RUN = 5
"""Words in a run."""

RUNS_AT_ONCE = 1 << 13

_WITHOUT_SPACES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"(?=\w)[{_WITHOUT_SPACES}]|[^\W{_WITHOUT_SPACES}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Signature = NDArray[np.uint32]
EMPTY = 0xFFFFFFFF
"""The value of all places of a text without words."""


def load_datasketch() -> Any:
    """Import datasketch.

    Raises:
        UserError: It is not installed.
    """
    return import_extra("datasketch", extra="dedup", purpose="--near_duplicates")


def signer() -> Callable[[list[str]], Signature]:
    """Return a function that returns the signatures of texts, (texts, PLACES)."""
    plain = load_datasketch().MinHash(num_perm=PLACES, scheme="affine32", hashfunc=int)

    def sign(texts: list[str]) -> Signature:
        signatures = np.full((len(texts), PLACES), EMPTY, dtype=np.uint32)
        for row, text in enumerate(texts):
            runs = runs_of(text)
            if len(runs):
                signature = plain.copy()
                for start in range(0, len(runs), RUNS_AT_ONCE):
                    signature.update_batch(runs[start : start + RUNS_AT_ONCE].tolist())
                signatures[row] = signature.hashvalues
        return signatures

    return sign


def runs_of(text: str) -> NDArray[np.uint32]:
    """Return the hashes of a text's different runs of words; of fewer than five words, one for all of them."""
    words = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in _WORD.findall(text.lower())], np.uint64)
    length = min(RUN, len(words))
    if length == 0:
        return np.zeros(0, np.uint32)
    runs = np.zeros(len(words) - length + 1, np.uint64)
    for place in range(length):
        runs = (runs + words[place : place + len(runs)] + np.uint64(1)) * _FACTOR
        runs ^= runs >> np.uint64(32)
    return np.unique(runs.astype(np.uint32))
