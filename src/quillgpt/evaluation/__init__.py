"""Evaluation: loss of a whole split, perplexity, bits per byte."""

from quillgpt.evaluation.loss import (
    Score,
    bits_per_byte,
    mean_loss,
    mixed_bits_per_byte,
    score_blocks,
    score_split,
    spell_perplexity,
)
from quillgpt.evaluation.published import published_losses

__all__ = [
    "Score",
    "bits_per_byte",
    "mean_loss",
    "mixed_bits_per_byte",
    "published_losses",
    "score_blocks",
    "score_split",
    "spell_perplexity",
]
