"""Honest numbers: whole-split loss, perplexity, bits per byte."""

from quillgpt.evaluation.loss import Score, mean_loss, score_split

__all__ = ["Score", "mean_loss", "score_split"]
