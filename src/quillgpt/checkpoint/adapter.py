"""A run's adapters alone, in the format of the library peft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quillgpt.checkpoint.stock_classes import STOCK_CLASSES
from quillgpt.checkpoint.tensors import stored_parts
from quillgpt.model import GPT, adapters

ADAPTER = "adapter"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"

Adapter = tuple[dict[str, Tensor], dict[str, Any]]
"""The tensors and the configuration of a peft folder."""


def to_peft(model: GPT, base: str) -> Adapter | None:
    """Return the adapters of a model in peft's format, or None if it has none.

    One of our matrices may hold several of the stock class (queries, keys and values; gate and up). It has one small
    input matrix, of which every part gets a copy.

    Args:
        model: The model.
        base: The model that the adapters belong to, as a user would name it.
    """
    tensors: dict[str, Tensor] = {}
    targets, layers = set(), dict(adapters(model))
    if not layers:
        return None
    for name, layer in layers.items():
        parts = stored_parts(f"{name}.weight", model.config)
        rows = torch.split(layer.lora_b, [part.rows or len(layer.lora_b) for part in parts])
        for part, piece in zip(parts, rows, strict=True):
            module = part.name.removesuffix(".weight")
            targets.add(".".join(module.split(".")[-2:]))
            tensors[f"base_model.model.{module}.lora_A.weight"] = layer.lora_a.detach().cpu().clone()
            tensors[f"base_model.model.{module}.lora_B.weight"] = piece.detach().cpu().clone()
    first = next(iter(layers.values()))
    rank = len(first.lora_a)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "lora_dropout": first.dropout,
        "target_modules": sorted(targets),
        "fan_in_fan_out": bool(STOCK_CLASSES[model.config.arch].transposed),
        "bias": "none",
        "inference_mode": True,
    }
    return tensors, config
