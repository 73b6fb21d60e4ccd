"""From scores of the next token to the token that is taken.

Candidates are kept sorted, likeliest first, so that every filter is a cut. Shapes: B samples, K candidates, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from quillgpt.config.schema import Sampling

NUMBERS_AT_ONCE: Final = 256
"""Random numbers that each sample has ready."""

COLDEST, COLD = 1e-30, 1e-6
"""Below the first, number formats hold no temperature; below the second, scores divided by it may overflow."""


def penalize_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur already less likely: divide positive scores, multiply negative ones (arXiv 1909.05858).

    Args:
        scores: (B, V).
        seen: Bool (B, V), True for tokens that occur in prompt or sample.
        penalty: Above 1 discourages.
    """
    penalized = torch.where(scores > 0, scores / penalty, scores * penalty)
    return torch.where(seen, penalized, scores)


def candidates(scores: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the tokens that may follow and their probabilities, likeliest first.

    Args:
        scores: (B, V), float32.
        sampling: Which tokens to keep: the likeliest (top_k), the smallest set with enough probability (top_p, arXiv
            1904.09751), those not too far below the likeliest (min_p, arXiv 2407.01082).

    Returns:
        Probabilities (B, K), 0 for tokens that were cut, and ids (B, K).
    """
    count = min(sampling.top_k or scores.shape[-1], scores.shape[-1])
    if sampling.temperature == 0:
        best, ids = scores.topk(1, dim=-1)
        return torch.where(best.isnan(), best, 1.0), ids
    kept, ids = scores.topk(count, dim=-1)
    if sampling.temperature < COLD:
        kept = kept - kept[:, :1]  # the likeliest is 0, whatever it is divided by
    probabilities = (kept / max(sampling.temperature, COLDEST)).softmax(-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities  # what likelier tokens have together
        too_many = before >= sampling.top_p
        too_many[:, 0] = False  # however little is asked for
        probabilities = probabilities.masked_fill(too_many, 0.0)
    if sampling.min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities[:, :1], 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True), ids


def draw(probabilities: Tensor, ids: Tensor, uniforms: Tensor) -> Tensor:
    """Take one candidate per sample by inverting the cumulative distribution.

    Args:
        probabilities: (B, K), sorted, with sum 1.
        ids: (B, K).
        uniforms: Random numbers of [0, 1), (B,), one for each sample, so that a sample does not depend on the others.

    Returns:
        Ids (B,); -1 where a probability is NaN.
    """
    cumulative = probabilities.cumsum(-1)
    # The last number of a sum may fall short of 1, and candidates that were cut (probability 0) must stay out.
    place = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    taken = ids.gather(-1, torch.minimum(place, last).clamp(min=0))
    return torch.where(cumulative[:, -1:].isnan(), -1, taken).squeeze(-1)


def uniforms_of_samples(seed: int, samples: Iterable[int], device: torch.device) -> Iterator[Tensor]:
    """Yield one random number for each sample, (B,), float32, again and again; they depend on seed and sample only."""
    generators = [np.random.default_rng([seed, sample]) for sample in samples]
    while True:
        numbers = [generator.random(NUMBERS_AT_ONCE, dtype=np.float32) for generator in generators]
        yield from torch.from_numpy(np.stack(numbers, axis=1)).to(device)
