"""A start from which a model copies from its context: one induction head, made of weights that training may change.

An induction head looks for where the present token stood before, and predicts what came after it (Elhage et al. 2021;
Olsson et al. 2022, arXiv 2209.11895). It takes two blocks. A head of the first one brings to each position the token
before it; a head of the second one looks for the position whose token before it is the present one. Neither half is of
use without the other, so training finds them late, and a small model within minutes never does. Here both are there
when training begins.

Directions in the residual stream are arbitrary before training, so single channels have a meaning: the first is the
same for all tokens, the next m are compared, and the m after those hold the token before.

Shapes: C model width, D head width, H query heads, G key and value heads; m channels, half of D where C has room.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from quillgpt.attention.spec import SOFTMAX

if TYPE_CHECKING:
    from quillgpt.model.gpt import GPT, CausalSelfAttention, GPTConfig

RAISED = 10.0
"""What the embedding is multiplied by: updates are as large as the usual weights, and would replace them at once."""

CONSTANT = 1.0
"""Share of the channel that is the same for all tokens, as a ratio to the norm of the others."""

SHARPNESS = 2.0
"""Weights of the norms of queries and keys in the channels that the two heads use: how clearly they choose."""

CARRIED = 5.7
"""Scale, times the embedding's, of the token before: it outweighs what the embedding has in the same channels."""

FAST = 0.15
"""Radians for a position, from which on a rotating pair of channels tells neighbours apart."""


FEWEST_TOKENS = 500
"""Tokens of the vocabulary at least: where a letter stood last says little about the next one."""


def can_begin_with_induction(config: GPTConfig) -> bool:
    """Whether a model has what it takes: two blocks, softmax attention, rotary positions, an output head of its own.

    Its tokens must be more than letters, too.
    """
    rotary, softmax = config.architecture.positions == "rotary", config.kernel == SOFTMAX
    return rotary and softmax and config.n_layer > 1 and not config.tied and config.vocab_size >= FEWEST_TOKENS


@torch.no_grad()
def begin_with_induction(model: GPT, std: float) -> None:
    """Replace weights of a new model by those of an induction head.

    Args:
        model: A model for which `can_begin_with_induction`, with its initial weights.
        std: Standard deviation of its embedding.
    """
    config, std = model.config, RAISED * std
    compared = min(config.head_dim // 2, (config.n_embd - 1) // 2)
    own = torch.arange(1, 1 + compared)
    embedding = model.token_embedding.weight
    embedding.mul_(RAISED)
    embedding[:, 0] = CONSTANT * std * math.sqrt(config.n_embd)
    first, second = (cast("CausalSelfAttention", block.attention) for block in model.blocks[:2])
    bring_the_token_before(first, config, own, own + compared, std)
    look_for_the_present_token(second, config, own, own + compared, std)


def bring_the_token_before(
    attention: CausalSelfAttention, config: GPTConfig, own: Tensor, before: Tensor, std: float
) -> None:
    """Let the first head attend to the position before, and write the channels `own` of it to the channels `before`."""
    query, key, value, output = weights_of_head(attention, config)
    half = config.head_dim // 2
    angles = config.rope_theta ** -(torch.arange(half) / half)  # of one position: those of rotation_table
    fast = torch.nonzero(angles > FAST)[:, 0]
    query.zero_(), key.zero_()
    key[fast, 0] = 1.0
    query[fast, 0], query[half + fast, 0] = angles[fast].cos(), -angles[fast].sin()  # the key, turned by one position
    sharpen(attention, torch.cat((fast, half + fast)))
    places = torch.arange(len(own))
    value[places], output[:, places] = 0.0, 0.0
    value[places, own] = 1.0
    output[before, places] = CARRIED * std


def look_for_the_present_token(
    attention: CausalSelfAttention, config: GPTConfig, own: Tensor, before: Tensor, std: float
) -> None:
    """Let the first head attend to where the token before is the present one, and copy the token from there.

    Queries and keys are compared in pairs of channels that turn slowly, so that the distance matters little.
    """
    query, key, value, output = weights_of_head(attention, config)
    half = config.head_dim // 2
    slow = torch.arange(half // 2, half)
    slow = torch.cat((slow, half + slow))[: len(own)]
    query.zero_(), key.zero_(), value.zero_(), output.zero_()
    query[slow, own] = key[slow, before] = 1.0
    sharpen(attention, slow)
    copied = torch.tensor([channel for channel in range(1, config.n_embd) if channel not in before.tolist()])
    copied = copied[: config.head_dim]
    places = torch.arange(len(copied))
    value[places, copied] = 1.0
    output[copied.roll(1), places] = std  # to another channel: there it is not taken for the present token


def sharpen(attention: CausalSelfAttention, channels: Tensor) -> None:
    """Raise the weights of these channels in the norms of queries and keys, which all heads of a block share."""
    for norm in (attention.query_norm, attention.key_norm):
        if norm is not None:
            norm.weight[channels] = SHARPNESS


def weights_of_head(attention: CausalSelfAttention, config: GPTConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the first head's maps to queries, keys and values, (D, C) each, and that of its output (C, D)."""
    D = config.head_dim
    queries, keys, values = torch.split(attention.qkv.weight, attention.qkv_widths)
    return queries[:D], keys[:D], values[:D], attention.output.weight[:, :D]
