"""Chooses the documents that are held out for validation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.document_stream import parts_by_hash

FEWEST_DOCUMENTS = 10
"""With fewer documents the text itself is cut instead: so few are too unlike each other."""

MANY_DOCUMENTS = 1000
"""With so many documents, `fraction` is a share of documents, as in nanoGPT's OpenWebText; else of characters."""


def hold_out(lengths: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_] | None:
    """Choose whole documents for validation.

    Documents are taken in the order of their hashes. So no part of a folder is preferred, equal documents are on the
    same side, and adding or renaming a document hardly changes the choice. A document that would make the held-out part
    far too large is skipped.

    Args:
        lengths: Characters of each document, (documents,).
        hashes: A hash of each document's text, (documents,).
        fraction: The share to hold out.

    Returns:
        Whether each document is held out, (documents,), or None if no choice comes near the share.
    """
    if len(lengths) < FEWEST_DOCUMENTS:
        return None
    by_count = len(lengths) >= MANY_DOCUMENTS
    wanted = (
        float(math.ceil(len(lengths) * fraction)) if by_count else float(lengths.astype(np.float64).sum()) * fraction
    )
    taken = 0.0
    held_out = np.zeros(len(lengths), dtype=np.bool_)
    for part in parts_by_hash(hashes):
        texts, text_of = np.unique(hashes[part], return_inverse=True)
        shares = np.bincount(text_of, weights=None if by_count else lengths[part], minlength=len(texts))
        chosen = np.zeros(len(texts), dtype=np.bool_)
        for text, share in enumerate(shares.tolist()):
            if taken + share <= 1.5 * wanted:
                chosen[text] = True
                taken += share
            if taken >= wanted:
                break
        held_out[part] = chosen[text_of]
        if taken >= wanted:
            break
    return held_out if taken >= 0.5 * wanted and not held_out.all() else None
