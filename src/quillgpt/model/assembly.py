"""Models that are assembled layer by layer from stored tensors.

A part is a module with parameters of its own: an embedding, a linear layer, a norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from quillgpt.model.gpt import GPT, GPTConfig

Form = Callable[[nn.Module], nn.Module]
"""Replaces a part that has its weights by the module that computes it, such as one with weights in 8 bits."""


def empty_model(config: GPTConfig, *, dropout: float = 0.0, attn_path: str = "auto") -> GPT:
    """Return a model whose weights have shapes but no values: they are on the device `meta`."""
    with torch.device("meta"):
        return GPT(config, dropout=dropout, attn_path=attn_path, seed=None)


@cache
def count_parameters(config: GPTConfig, *, positions: bool = True) -> int:
    """Return `GPT.parameter_count` of a model, as quickly for many blocks as for two, because all blocks are alike."""
    one, two = (empty_model(replace(config, n_layer=n)).parameter_count(positions=positions) for n in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def read_into(model: GPT, read: Callable[[str], Tensor], form: Form | None = None) -> None:
    """Give an empty model its weights.

    Args:
        model: The model, from `empty_model`.
        read: Returns a tensor by its name; every call returns a new one.
        form: Replaces each part as soon as it has its weights; None: it stays as it is.
    """
    for name in part_names(model):
        part = model.get_submodule(name)
        # A tied head reads the embedding again: once replaced, the two can no longer share their weights.
        source = "token_embedding" if name == "head" and model.config.tied else name
        part.load_state_dict({tensor: read(f"{source}.{tensor}") for tensor in part.state_dict()}, assign=True)
        if form is not None:
            model.set_submodule(name, form(part))
    if isinstance(model.head, nn.Linear):
        model.tie()


def part_names(model: GPT) -> list[str]:
    """Return the names of a model's parts, the head first: the largest is best replaced while memory is free."""
    names = [name for name, part in model.named_modules() if next(part.parameters(recurse=False), None) is not None]
    return sorted(names, key=lambda name: name != "head")


class StoredTable(nn.Module):
    """An embedding that stays in its file: a row is read when it is first used.

    Args:
        read: Returns a row (C,) by its number.
    """

    def __init__(self, read: Callable[[int], Tensor]) -> None:
        super().__init__()
        self._row = cache(read)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...) as (..., C)."""
        return torch.stack([self._row(row) for row in ids.flatten().tolist()]).view(*ids.shape, -1)
