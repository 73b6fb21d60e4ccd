"""From the logits of the next token to the token that is chosen.

Candidates are sorted by probability, highest first, so every filter keeps the beginning of the list. Shapes:
B samples, K candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from quillgpt.config.schema import Sampling

NUMBERS_AT_ONCE: Final = 256
"""Random numbers that are drawn for each sample at a time."""

COLDEST, COLD = 1e-30, 1e-6
"""Temperatures below COLDEST underflow in float32. Below COLD, logits divided by the temperature may overflow."""


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur already less likely: divide positive logits, multiply negative ones (arXiv 1909.05858).

    Args:
        logits: Logits (B, V).
        seen: Bool (B, V), True for tokens that occur in the prompt or the sample.
        penalty: The factor; above 1 it makes repetition less likely.
    """
    penalized = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, penalized, logits)


def candidates(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Return the tokens that may be chosen and their probabilities, highest first.

    Args:
        logits: Logits (B, V), float32.
        sampling: Which tokens to keep: the most likely ones (top_k), the smallest set with enough probability (top_p,
            arXiv 1904.09751), those whose probability is close enough to the highest (min_p, arXiv 2407.01082).

    Returns:
        Probabilities (B, K), 0 for tokens that are not kept, and ids (B, K).
    """
    count = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    if sampling.temperature == 0:
        best, ids = logits.topk(1, dim=-1)
        return torch.where(best.isnan(), best, 1.0), ids
    kept, ids = logits.topk(count, dim=-1)
    if sampling.temperature < COLD:
        kept = kept - kept[:, :1]  # the highest becomes 0, which no temperature makes larger
    probabilities = (kept / max(sampling.temperature, COLDEST)).softmax(-1)
    if sampling.top_p is not None:
        before = probabilities.cumsum(-1) - probabilities  # total probability of the more likely tokens
        too_many = before >= sampling.top_p
        too_many[:, 0] = False  # the most likely token stays, however small top_p is
        probabilities = probabilities.masked_fill(too_many, 0.0)
    if sampling.min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities[:, :1], 0.0)
    return probabilities / probabilities.sum(-1, keepdim=True), ids


def draw_tokens(probabilities: Tensor, ids: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one candidate per sample by inverting the cumulative distribution.

    Args:
        probabilities: Sorted probabilities (B, K) that sum to 1.
        ids: Their ids (B, K).
        uniforms: Random numbers in [0, 1), (B,). Each sample has its own, so samples do not depend on each other.

    Returns:
        Ids (B,); -1 where a probability is NaN.
    """
    cumulative = probabilities.cumsum(-1)
    # Rounding may leave the cumulative sum below 1; candidates with probability 0 must never be drawn.
    index = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    taken = ids.gather(-1, torch.minimum(index, last).clamp(min=0))
    return torch.where(cumulative[:, -1:].isnan(), -1, taken).squeeze(-1)


def uniforms_of_samples(seed: int, samples: Iterable[int], device: torch.device) -> Iterator[Tensor]:
    """Yield one random number for each sample, (B,) in float32, for step after step.

    They depend on nothing but the seed and the number of the sample.
    """
    generators = [np.random.default_rng([seed, sample]) for sample in samples]
    while True:
        numbers = [generator.random(NUMBERS_AT_ONCE, dtype=np.float32) for generator in generators]
        yield from torch.from_numpy(np.stack(numbers, axis=1)).to(device)
