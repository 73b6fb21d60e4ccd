"""Training: the loop, its step, its set-up and its record."""

from quillgpt.training.trainer import RunSummary, train

__all__ = ["RunSummary", "train"]
