"""Models for other programs: an export is written, run there, and compared before it is kept."""

from quillgpt.export.export import TARGETS, export_model

__all__ = ["TARGETS", "export_model"]
