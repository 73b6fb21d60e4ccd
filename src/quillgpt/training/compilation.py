"""torch.compile from outside of the model, block by block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from quillgpt.files import quill_home
from quillgpt.model import GPT

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code() -> None:
    """Let what is compiled stay in the cache folder for the next run.

    PyTorch takes a folder for temporary files instead, and settles on it when the first optimizer is made.
    """
    os.environ.setdefault(CACHE_VARIABLE, str(quill_home() / "compiled"))


def compile_model(model: GPT) -> None:
    """Let a model's blocks and its loss run compiled.

    All blocks share one compiled function, which takes the compiler the time of one block.
    """
    for owner, name in _parts(model):
        setattr(owner, name, torch.compile(getattr(owner, name)))


def leave_uncompiled(model: GPT) -> None:
    """Undo `compile_model`."""
    for owner, name in _parts(model):
        vars(owner).pop(name, None)


@contextmanager
def uncompiled(model: GPT) -> Iterator[None]:
    """Let a model run uncompiled while the block runs: for hooks, and for shapes that would be compiled anew."""
    compiled = [(owner, name, vars(owner).pop(name)) for owner, name in _parts(model) if name in vars(owner)]
    try:
        yield
    finally:
        for owner, name, function in compiled:
            setattr(owner, name, function)


def _parts(model: GPT) -> list[tuple[nn.Module, str]]:
    """Return what is compiled: methods, which as attributes of an object take the place of those of its class."""
    return [*((block, "forward") for block in model.blocks), (model, "loss_of")]
