"""Train, finetune, understand and share small GPT language models on your own text."""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from quillgpt.api import Model, load
    from quillgpt.config import TrainSettings, resolve
    from quillgpt.data.prepare import prepare
    from quillgpt.training import RunSummary, train

__all__ = ["Model", "RunSummary", "TrainSettings", "__version__", "load", "prepare", "resolve", "train"]

_HOMES = {
    "Model": "quillgpt.api",
    "load": "quillgpt.api",
    "TrainSettings": "quillgpt.config",
    "resolve": "quillgpt.config",
    "prepare": "quillgpt.data.prepare",
    "RunSummary": "quillgpt.training",
    "train": "quillgpt.training",
}


def __dir__() -> list[str]:
    """List the public names, imported or not, for those who complete them with Tab."""
    return __all__


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, so that `quill --help` need not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'quillgpt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
