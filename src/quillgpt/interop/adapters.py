"""Merging LoRA matrices, which the library loralib stores among the tensors of nanoGPT's layout, into the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from quillgpt.checkpoint.tensors import Tensors
from quillgpt.errors import CheckpointError, shorten

ADAPTER = re.compile(r"(.*)\.lora_([AB])")
PUBLISHED = re.compile(r"(?:.*_)?(gpt2(?:-medium|-large|-xl)?)")
"""Values of init_from that name a published model: `gpt2`, `lora_gpt2`, `continued_gpt2-xl`."""


def holds_adapters_alone(weights: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are matrices of adapters."""
    return all(ADAPTER.fullmatch(name) for name in weights)


def name_of_base(init_from: object, file: Path) -> str:
    """Return the name of the base model of a checkpoint that has adapters only.

    Raises:
        CheckpointError: The checkpoint does not name it.
    """
    match = PUBLISHED.fullmatch(init_from) if isinstance(init_from, str) else None
    if match is None:
        raise CheckpointError(
            f"{file} has LoRA matrices only and does not name their base model (init_from = {shorten(init_from)}); "
            "save the base model's weights with them, under the key model and by the same names"
        )
    return match[1]


def merge(adapters: Mapping[str, Tensor], weights: Tensors, file: Path) -> None:
    """Add adapters to their weights, which are in the layout of the transformers class.

    loralib scales by lora_alpha / r, and the program that writes these files leaves lora_alpha at 1.

    Raises:
        CheckpointError: An adapter does not fit its weight, or has none.
    """
    modules = {match[1] for name in adapters if (match := ADAPTER.fullmatch(name))}
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
    """Whether the product of two matrices (rank, in) and (out, rank) has the shape of the weight, (in, out)."""
    if any(tensor.ndim != 2 for tensor in (first, second, weight)):
        return False
    return first.shape[0] == second.shape[1] > 0 and (first.shape[1], second.shape[0]) == tuple(weight.shape)
