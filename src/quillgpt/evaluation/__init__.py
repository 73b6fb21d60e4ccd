"""Evaluation: losses of splits with their uncertainty, perplexity, bits per byte, and differences between models."""

from quillgpt.evaluation.comparison import Difference, compare
from quillgpt.evaluation.loss import (
    SPREAD_SEED,
    Score,
    bits_per_byte,
    joined,
    mean_loss,
    mixed_bits_per_byte,
    score_blocks,
    score_split,
    score_windows,
    spell_perplexity,
)
from quillgpt.evaluation.published import published_losses
from quillgpt.evaluation.report import Result, compare_results, comparison_table, describe_text, result_table
from quillgpt.evaluation.windows import Windows

__all__ = [
    "SPREAD_SEED",
    "Difference",
    "Result",
    "Score",
    "Windows",
    "bits_per_byte",
    "compare",
    "compare_results",
    "comparison_table",
    "describe_text",
    "joined",
    "mean_loss",
    "mixed_bits_per_byte",
    "published_losses",
    "result_table",
    "score_blocks",
    "score_split",
    "score_windows",
    "spell_perplexity",
]
