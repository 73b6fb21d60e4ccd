"""How much memory a run's step needs, and how many sequences fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from quillgpt.config.schema import TrainSettings
from quillgpt.device import Memory
from quillgpt.model import ModelShape, empty_model
from quillgpt.model.cost import TrainingMemory, training_memory
from quillgpt.optim.groups import group_parameters
from quillgpt.training.base import with_adapters

USABLE_SHARE = 0.9
"""Share of the free memory that may be planned with."""


def memory_needed(
    settings: TrainSettings, shape: ModelShape, *, device: torch.device, dtype: torch.dtype
) -> Callable[[int], TrainingMemory]:
    """Return what says how much memory a step needs that computes so many sequences at once.

    Args:
        settings: The run's, with the attention path chosen.
        shape: The shape of the model.
        device: Where it is trained.
        dtype: Number format of the products.
    """
    shape = replace(shape, block_size=settings.block_size)
    model = with_adapters(empty_model(shape), settings)
    groups = group_parameters(model)
    muon = groups.block_matrices if settings.optimizer == "muon" else {}

    def needed(sequences: int) -> TrainingMemory:
        return training_memory(
            shape,
            parameters=model.parameter_count(),
            trained=sum(each.numel() for each in groups.trained.values()),
            muon_parameters=sum(each.numel() for each in muon.values()),
            averaged=settings.ema_decay > 0,
            sequences=sequences,
            attn_path=settings.attn_path,
            dropout=settings.dropout > 0,
            recomputed=settings.gradient_checkpointing,
            value_bytes=dtype.itemsize,
            gpu=device.type != "cpu",
        )

    return needed


def fits(needed: TrainingMemory, available: Memory | None) -> bool:
    """Say whether a step has room; where nothing is known of the memory, it has."""
    return available is None or needed.total <= USABLE_SHARE * free_bytes(available)


def free_bytes(available: Memory) -> int:
    """Return the bytes that nobody uses, or all there are where the system does not tell."""
    return available.total if available.free is None else available.free
