"""Training: the loop, its step, its set-up and its record."""

from quillgpt.training.report import RunSummary
from quillgpt.training.trainer import train

__all__ = ["RunSummary", "train"]
