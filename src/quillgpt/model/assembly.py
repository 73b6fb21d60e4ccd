"""Models that are put together part by part from stored tensors.

A part is a module that has parameters of its own: an embedding, a linear layer, a norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from quillgpt.model.gpt import GPT, GPTConfig

Form = Callable[[nn.Module], nn.Module]
"""Given a part with its weights, returns what takes its place."""


def empty_model(config: GPTConfig, *, dropout: float = 0.0, attn_path: str = "auto") -> GPT:
    """Return a model whose weights have sizes but no content: they are on the device `meta`."""
    with torch.device("meta"):
        return GPT(config, dropout=dropout, attn_path=attn_path, seed=None)


@cache
def count_parameters(config: GPTConfig, *, positions: bool = True) -> int:
    """Count what `GPT.parameter_count` does, in the same time for any number of blocks: all have the same shape."""
    one, two = (empty_model(replace(config, n_layer=n)).parameter_count(positions=positions) for n in (1, 2))
    return one + (config.n_layer - 1) * (two - one)


def read_into(model: GPT, read: Callable[[str], Tensor], form: Form | None = None) -> None:
    """Give an empty model its weights.

    Args:
        model: The model, as `empty_model` returns it.
        read: Returns a tensor by its name, anew each time.
        form: What each part becomes as soon as it has its weights; None: it stays as it is.
    """
    for name in part_names(model):
        part = model.get_submodule(name)
        # A head that shares the embedding reads it too: in another form the two can no longer share it.
        source = "token_embedding" if name == "head" and model.config.tied else name
        part.load_state_dict({each: read(f"{source}.{each}") for each in part.state_dict()}, assign=True)
        if form is not None:
            model.set_submodule(name, form(part))
    if isinstance(model.head, nn.Linear):
        model.tie()


def part_names(model: GPT) -> list[str]:
    """Return the names of a model's parts, the head first: the largest is best changed while little else is there."""
    names = [name for name, each in model.named_modules() if next(each.parameters(recurse=False), None) is not None]
    return sorted(names, key=lambda name: name != "head")


class StoredTable(nn.Module):
    """A large table of which few rows are used, such as a token embedding's: a row is read when it is first asked for.

    Args:
        read: Returns a row (C,) by its number.
    """

    def __init__(self, read: Callable[[int], Tensor]) -> None:
        super().__init__()
        self._row = cache(read)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (...) as (..., C)."""
        return torch.stack([self._row(each) for each in ids.flatten().tolist()]).view(*ids.shape, -1)
