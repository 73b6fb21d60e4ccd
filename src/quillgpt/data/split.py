"""Which documents are held out for validation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEWEST_DOCUMENTS = 10
"""Documents below which the split cuts the text instead: so few say too little about each other."""


MANY_DOCUMENTS = 1000
"""Documents from which on the share is one of documents, as in nanoGPT's OpenWebText; of fewer, one of characters."""


def hold_out(lengths: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_] | None:
    """Choose whole documents for validation.

    Documents are taken in the order of their hashes: no part of a folder is preferred, equal documents come together,
    and a document that is added or renamed leaves the choice almost as it was. Of few documents, one that would bring
    far more than the share of all characters is passed over.

    Args:
        lengths: Characters of each document, (documents,).
        hashes: A hash of each document's text, (documents,).
        fraction: The share that is wanted.

    Returns:
        Which documents are held out, (documents,); None where no choice comes near the share.
    """
    if len(lengths) < FEWEST_DOCUMENTS:
        return None
    if len(lengths) >= MANY_DOCUMENTS:
        weights = np.ones(len(lengths))
        wanted = float(math.ceil(len(lengths) * fraction))
    else:
        weights = lengths.astype(np.float64)
        wanted = float(weights.sum()) * fraction
    texts, text_of = np.unique(hashes, return_inverse=True)
    shares = np.bincount(text_of, weights=weights, minlength=len(texts))
    taken = 0.0
    held_out = np.zeros(len(texts), dtype=np.bool_)
    for text, share in enumerate(shares):
        if taken + share <= 1.5 * wanted:
            held_out[text] = True
            taken += share
        if taken >= wanted:
            break
    return held_out[text_of] if taken >= 0.5 * wanted and not held_out.all() else None
