"""Models of other programs, which Quill opens wherever it opens its own."""

from quillgpt.interop.hub import holds_model, hub_repository
from quillgpt.interop.models import open_model
from quillgpt.interop.nanogpt_checkpoint import find_nanogpt_file

__all__ = ["find_nanogpt_file", "holds_model", "hub_repository", "open_model"]
