"""LoRA matrices among the tensors of nanoGPT's layout, as the library loralib keeps them: merged into their weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from quillgpt.checkpoint.tensors import Tensors
from quillgpt.errors import CheckpointError, shorten

ADAPTER = re.compile(r"(.*)\.lora_([AB])")
PUBLISHED = re.compile(r"(?:.*_)?(gpt2(?:-medium|-large|-xl)?)")
"""How settings name a published model to start from: `gpt2`, `lora_gpt2`, `continued_gpt2-xl`."""


def holds_adapters_alone(weights: Mapping[str, Tensor]) -> bool:
    """Say whether all tensors are matrices of adapters."""
    return all(ADAPTER.fullmatch(name) for name in weights)


def name_of_base(init_from: object, file: Path) -> str:
    """Return the model that a checkpoint of adapters alone was trained on top of.

    Raises:
        CheckpointError: It does not say.
    """
    found = PUBLISHED.fullmatch(init_from) if isinstance(init_from, str) else None
    if found is None:
        raise CheckpointError(
            f"{file} holds LoRA matrices alone, without the model that they belong to (init_from = {shorten(init_from)}"
            "); save that model's weights beside them under the key model, by the same names"
        )
    return found[1]


def merge(adapters: Mapping[str, Tensor], weights: Tensors, file: Path) -> None:
    """Add what adapters change to the weights that they belong to, which are in the layout of the stock class.

    The library's factor is lora_alpha / r, and the program whose files these are leaves lora_alpha at 1.

    Raises:
        CheckpointError: One does not fit its weight, or has none.
    """
    modules = {found[1] for name in adapters if (found := ADAPTER.fullmatch(name))}
    for module in sorted(modules):
        first, second = (adapters.get(f"{module}.lora_{part}") for part in "AB")
        weight = weights.get(f"{module}.weight")
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (first, second, weight)]
        if first is None or second is None or weight is None or not fits(first, second, weight):
            raise CheckpointError(
                f"{file}: the LoRA matrices of {module} and its weight have the shapes {shapes[0]}, {shapes[1]} and "
                f"{shapes[2]}; expected (rank, in), (out, rank) and (in, out)"
            )
        weight += (second @ first).T / first.shape[0]


def fits(first: Tensor, second: Tensor, weight: Tensor) -> bool:
    """Say whether two matrices (rank, in) and (out, rank) make one of the weight's size, (in, out)."""
    if any(tensor.ndim != 2 for tensor in (first, second, weight)):
        return False
    return first.shape[0] == second.shape[1] > 0 and (first.shape[1], second.shape[0]) == tuple(weight.shape)
