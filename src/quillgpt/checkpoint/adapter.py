"""A run's adapters alone, in the format of the library peft."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from quillgpt.checkpoint.stock_classes import STOCK_CLASSES
from quillgpt.checkpoint.tensor_file import NamedTensors, Read
from quillgpt.checkpoint.tensors import stored_parts
from quillgpt.model import GPT, adapters

ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
ADAPTER_CONFIG = "adapter/adapter_config.json"


def adapter_tensors(model: GPT) -> NamedTensors:
    """Return the tensors of a model's adapters.

    One of our matrices may hold several of the stock class (queries, keys and values; gate and up). It has one small
    input matrix, of which every part gets a copy.
    """

    def tensors(read: Read) -> Iterator[tuple[str, Tensor]]:
        for name, layer in adapters(model):
            lora_a, lora_b = read(layer.lora_a), read(layer.lora_b)
            parts = stored_parts(f"{name}.weight", model.config)
            rows = torch.split(lora_b, [part.rows or len(lora_b) for part in parts])
            for part, piece in zip(parts, rows, strict=True):
                module = part.name.removesuffix(".weight")
                yield f"base_model.model.{module}.lora_A.weight", lora_a
                yield f"base_model.model.{module}.lora_B.weight", piece

    return tensors


def adapter_config(model: GPT, base: str) -> dict[str, Any] | None:
    """Return the configuration of a model's adapters, or None if it has none.

    Args:
        model: The model.
        base: The model that the adapters belong to, as a user would name it.
    """
    layers = dict(adapters(model))
    if not layers:
        return None
    parts = (part for name in layers for part in stored_parts(f"{name}.weight", model.config))
    targets = {".".join(part.name.split(".")[-3:-1]) for part in parts}
    first = next(iter(layers.values()))
    rank = len(first.lora_a)
    return {
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
