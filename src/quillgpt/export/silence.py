"""A token that a program wants and the model does not have: added so that it is never drawn, and nothing else changes.

Heads have no bias, so a row cannot be silenced by a number; it needs something of the hidden state that has one sign
everywhere. LayerNorm leaves such a thing, RMSNorm is given one. Both hold exactly, whatever the weights are.

Names: C width of the model, g gains and b biases of the final norm, h what it returns, S the sum of an input's squares.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.model import GPTConfig

BELOW = 1000.0
"""By how much the token's score is to lie below 0."""

SHIFT = 10.0
"""Length of what is added to LayerNorm's biases."""

ADDED_WIDTH = 32
"""Dimensions that are added beside RMSNorm: one is needed, and 32 are a group of 8-bit numbers."""

CONSTANT = 100.0
"""What the added dimension is behind the final norm, where the input's root mean square is 1."""


def with_silent_token(state: dict[str, Tensor], config: GPTConfig, tokens: int) -> tuple[dict[str, Tensor], GPTConfig]:
    """Return weights and shape of the same model with one more token, whose probability is 0 in any number format.

    Args:
        state: The model's tensors, float32.
        config: Its shape.
        tokens: The rows of its vocabulary that have a token; the others are left out.

    Returns:
        The weights, of a LayerNorm with a bias of the final norm in any case; and the configuration.
    """
    state = state | {name: state[name][:tokens] for name in ("token_embedding.weight", "head.weight")}
    silence = _behind_layer_norm if config.architecture.norm == "layer" else _behind_rms_norm
    state, config = silence(state, config)
    return state, replace(config, vocab_size=tokens + 1, tied=False)


def _behind_layer_norm(state: dict[str, Tensor], config: GPTConfig) -> tuple[dict[str, Tensor], GPTConfig]:
    """Use that h . u = b . u for u = 1/g: what LayerNorm scales by g has the mean 0.

    So u times any number may be added to a row of the head, at the price of a constant. It is used to move b along u,
    so that h . u is far from 0, and to take the effect of that from the scores of the other tokens.
    """
    gains = state["final_norm.weight"].double()
    u = F.normalize(1 / torch.where(gains.abs() < 1e-6, 1e-6, gains), dim=0)
    bias = state.get("final_norm.bias", torch.zeros(config.n_embd)).double()
    shift = math.copysign(SHIFT, float(bias @ u)) * u
    constant = float((bias + shift) @ u)
    head = state["head.weight"].double()
    head = head - torch.outer(head @ shift, u) / constant
    silent = -BELOW / constant * u
    return {
        **state,
        "token_embedding.weight": F.pad(state["token_embedding.weight"], (0, 0, 0, 1)),
        "final_norm.bias": (bias + shift).float(),
        "head.weight": torch.cat([head, silent[None]]).float(),
    }, config


def _behind_rms_norm(state: dict[str, Tensor], config: GPTConfig) -> tuple[dict[str, Tensor], GPTConfig]:
    """Widen the residual stream by dimensions of which the first is a constant a, and the others are 0.

    A norm over C' dimensions that adds (eps C - a^2)/C' to (S + a^2)/C' divides by sqrt(C/C') times what it divided by,
    which its gains take back. So a is free below sqrt(eps C). The norms of queries and keys have the same eps:
    these are scaled as its root. Behind the final norm, a is positive whatever the input is.
    """
    width, wider = config.n_embd, config.n_embd + ADDED_WIDTH
    a = math.sqrt(config.norm_eps * width) / 2
    norm_eps = (config.norm_eps * width - a**2) / wider
    added = (0, ADDED_WIDTH)
    heads = config.n_head + config.n_kv_head
    changed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(("attention_norm.weight", "mlp_norm.weight", "final_norm.weight")):
            changed[name] = F.pad(tensor * math.sqrt(width / wider), added)
        elif name.endswith(("qkv.weight", "gate_up.weight", "head.weight")):
            changed[name] = F.pad(tensor, added)
        elif name.endswith(("output.weight", "down.weight")):
            changed[name] = F.pad(tensor, (0, 0, *added))
        elif name.endswith("token_embedding.weight"):
            changed[name] = F.pad(tensor, (*added, 0, 1))
            changed[name][:, width] = a
        if name.endswith("qkv.weight"):
            changed[name][: heads * config.head_dim] *= math.sqrt(norm_eps / config.norm_eps)
    changed["final_norm.weight"][width] = CONSTANT / a * math.sqrt(width / wider)
    silent = torch.zeros(1, wider)
    silent[0, width] = -BELOW
    changed["head.weight"] = torch.cat([changed["head.weight"], silent])
    return state | changed, replace(config, n_embd=wider, norm_eps=norm_eps)
