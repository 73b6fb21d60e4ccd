"""Which documents are held out for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FEWEST_DOCUMENTS = 10
"""Documents below which the split cuts the text instead: so few say too little about each other."""


def hold_out(lengths: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_] | None:
    """Choose whole documents for validation, with about a share of all characters.

    Documents are taken in the order of their hashes: no part of a folder is preferred, equal documents come together,
    and a document that is added or renamed leaves the choice almost as it was. One that would bring far more than the
    share is passed over.

    Args:
        lengths: Characters of each document, (documents,).
        hashes: A hash of each document's text, (documents,).
        fraction: The share of characters that is wanted.

    Returns:
        Which documents are held out, (documents,); None where no choice comes near the share.
    """
    if len(lengths) < FEWEST_DOCUMENTS:
        return None
    wanted = float(lengths.sum()) * fraction
    texts, text_of = np.unique(hashes, return_inverse=True)
    characters = np.bincount(text_of, weights=lengths.astype(np.float64), minlength=len(texts))
    taken = 0.0
    held_out = np.zeros(len(texts), dtype=np.bool_)
    for text, size in enumerate(characters):
        if taken + size <= 1.5 * wanted:
            held_out[text] = True
            taken += size
        if taken >= wanted:
            break
    return held_out[text_of] if taken >= 0.5 * wanted and not held_out.all() else None
