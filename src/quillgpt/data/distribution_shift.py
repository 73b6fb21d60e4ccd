"""Whether the validation text differs in kind from the training text, by the frequencies of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.batches import Tokens
from quillgpt.data.dataset import Dataset
from quillgpt.data.mixture import Mixture

MOST_TOKENS = 1 << 20
"""Tokens of each part that are counted."""

MOST_PARTS = 12
FEWEST_PARTS = 3
"""Parts of the training text that are compared with the rest of it; their differences are the usual ones."""

FEWEST_TOKENS = 200
LEAST_DIVERGENCE = 0.1
LEAST_RATIO = 2.0  # the last tenths of books, documentation and programs had at most 1.2
EXAMPLES = 5


@dataclass(frozen=True)
class DistributionShift:
    """How the validation text differs from the training text.

    Attributes:
        divergence: Kullback-Leibler divergence of its token frequencies from those of the training text, in nats.
        usual: The same for the part of the training text that differs most from the rest.
        unknown: The share of its tokens that never occur in the training text.
        examples: The ids whose frequencies differ most.
    """

    divergence: float
    usual: float
    unknown: float
    examples: list[int]


def describe_shift(mixture: Mixture) -> str | None:
    """Return the warning for data sets whose validation text is of another kind than their training text, or None."""
    shifts = {dataset.name: _describe_shift(dataset) for dataset in mixture.datasets}
    said = [shift if mixture.is_single else f"in {name}, {shift}" for name, shift in shifts.items() if shift]
    return "; ".join(said) or None


def _describe_shift(dataset: Dataset) -> str | None:
    shift = distribution_shift(dataset.train, dataset.val, dataset.tokenizer.vocab_size)
    if shift is None:
        return None
    examples = ", ".join(repr(dataset.tokenizer.decode([token])) for token in shift.examples)
    unknown = f"{shift.unknown:.0%} of its tokens never occur in that, and " if shift.unknown >= 0.005 else ""
    return (
        f"the held-out text is of another kind than the training text: {unknown}the frequencies differ most for "
        f"{examples}. Its loss says little about what is learned. Mix the parts of the text, give them as several "
        "files (of ten or more, whole ones are held out), or name a text of the same kind: --val=PATH"
    )


def distribution_shift(train: Tokens, val: Tokens, vocab_size: int) -> DistributionShift | None:
    """Return how validation tokens differ from training tokens; None if parts of the latter differ as much."""
    size = min(len(val), MOST_TOKENS)
    parts = min(len(train) // max(size, 1), MOST_PARTS)
    if size < FEWEST_TOKENS or parts < FEWEST_PARTS:
        return None
    offsets = np.linspace(0, len(train) - size, parts).astype(np.int64)
    counts = [_count(train[start : start + size], vocab_size) for start in offsets.tolist()]
    whole = np.sum(counts, axis=0)
    held_out = _count(val[:size], vocab_size)
    usual = max(_terms(part, whole - part).sum() for part in counts)
    terms = _terms(held_out, whole)
    if terms.sum() < max(LEAST_DIVERGENCE, LEAST_RATIO * usual):
        return None
    unknown = float(held_out[whole == 0].sum() / size)
    return DistributionShift(float(terms.sum()), float(usual), unknown, np.argsort(-terms)[:EXAMPLES].tolist())


def _count(tokens: Tokens, vocab_size: int) -> NDArray[np.int64]:
    return np.bincount(tokens, minlength=vocab_size)


def _terms(part: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each token's term of the Kullback-Leibler divergence of `part` from `others`, (vocabulary,)."""
    own = part / part.sum()
    expected = (others + 0.5) / (others.sum() + 0.5 * len(others))
    return np.where(part > 0, own * np.log(np.maximum(own, 1e-300) / expected), 0.0)
