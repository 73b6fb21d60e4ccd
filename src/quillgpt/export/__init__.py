"""Models for other programs: written, then run there and compared before they count as done."""

from quillgpt.export.export import TARGETS, export

__all__ = ["TARGETS", "export"]
