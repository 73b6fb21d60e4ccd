"""Tiny models whose weights are random enough for a mistake to show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quillgpt.model import GPT, GPTConfig

GPT2 = GPTConfig(
    arch="gpt2",
    vocab_size=65,
    block_size=16,
    n_layer=3,
    n_head=4,
    n_kv_head=4,
    n_embd=32,
    head_dim=8,
    mlp_dim=128,
    bias=True,
    activation="gelu_new",
)
QWEN3 = GPTConfig(
    arch="qwen3",
    vocab_size=65,
    block_size=16,
    n_layer=3,
    n_head=4,
    n_kv_head=2,
    n_embd=32,
    head_dim=12,
    mlp_dim=64,
    norm_eps=1e-6,
)
CONFIGS = {"gpt2": GPT2, "qwen3": QWEN3}


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw every parameter, biases and norms included: a weight in the wrong place cannot hide behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.2, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.add_(1)


def tiny_model(config: GPTConfig = GPT2, *, seed: int = 0, **changes: Any) -> GPT:
    """Return a random model in evaluation mode, of a configuration with some changes."""
    model = GPT(replace(config, **changes)).eval()
    randomize(model, seed)
    return model


def random_ids(config: GPTConfig, batch_size: int, length: int, seed: int = 0) -> torch.Tensor:
    """Return random ids of the vocabulary, (batch_size, length)."""
    return torch.randint(config.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(seed))


END = 256
"""The end of text of the tokenizer `byte`."""


def documents_of_bytes(count: int, *, seed: int = 0, share: float = 0.1) -> NDArray[np.uint16]:
    """Return random tokens of the tokenizer `byte`, of which about `share` end a document, (count,)."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, END, count).astype(np.uint16)
    tokens[generator.random(count) < share] = END
    return tokens
