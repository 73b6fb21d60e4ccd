"""A silent token: one that another program needs and the model lacks, added so that it is never sampled.

All other logits stay as they are. The head has no bias, so the token's logit must come from a direction of the hidden
state that has the same sign everywhere. LayerNorm has such a direction; RMSNorm is given one. Both ways are exact for
any weights.

Names: C width of the model, g gains and b biases of the final norm, h its result, S the sum of its input's squares.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.model import GPTConfig

BELOW = 1000.0
"""How far the token's logit lies below 0."""

SHIFT = 10.0
"""Length of the vector that is added to LayerNorm's biases."""

ADDED_WIDTH = 32
"""Dimensions that are added for RMSNorm: one is needed, and 32 are a group of 8-bit numbers."""

CONSTANT = 100.0
"""The added dimension after the final norm, for an input with a root mean square of 1."""


def with_silent_token(state: dict[str, Tensor], config: GPTConfig, tokens: int) -> tuple[dict[str, Tensor], GPTConfig]:
    """Return tensors and configuration of the same model with one more token, of probability 0 in any number format.

    Args:
        state: The model's tensors, float32.
        config: Its configuration.
        tokens: Number of tokens; the rows after them are left out.

    Returns:
        The tensors, with a bias of the final norm if that is a LayerNorm; and the configuration.
    """
    state = state | {name: state[name][:tokens] for name in ("token_embedding.weight", "head.weight")}
    silence = _behind_layer_norm if config.architecture.norm == "layer" else _behind_rms_norm
    state, config = silence(state, config)
    return state, replace(config, vocab_size=tokens + 1, tied=False)


def _behind_layer_norm(state: dict[str, Tensor], config: GPTConfig) -> tuple[dict[str, Tensor], GPTConfig]:
    """Add the token for LayerNorm: h . u = b . u for u = 1/g, because what LayerNorm scales by g has the mean 0.

    So adding a multiple of u to a row of the head adds a constant to its logit. First b is moved along u, so that h . u
    is far from 0; then the rows of the other tokens are corrected for that.
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
    """Add the token for RMSNorm: widen the residual stream by a dimension with the constant a, and some with 0.

    A norm over C' dimensions that adds (eps C - a^2)/C' to (S + a^2)/C' divides by sqrt(C/C') times its former divisor,
    which its gains undo. So a may be any number below sqrt(eps C). The norms of queries and keys have the same eps, so
    queries and keys are scaled by the root of its change. After the final norm, a is positive for any input.
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
