"""Training: the loop, its step, its set-up, its plan and its record."""

from quillgpt.training.interruption import Interruption
from quillgpt.training.record.report import RunSummary
from quillgpt.training.session import train

__all__ = ["Interruption", "RunSummary", "train"]
