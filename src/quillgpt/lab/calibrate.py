"""A kernel in place of softmax: gains of heads, and widths of their Gaussians, that come nearest without training.

Shapes: B batch, H heads, G key and value heads, T position, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from quillgpt.attention import attention_path
from quillgpt.lab.observe import attentions, observed
from quillgpt.model import GPT
from quillgpt.model.block import Attention

TAUS = [2 ** (k / 2) for k in range(-10, 7)]
"""Factors of the squared distance that are tried: from 1/32 to 8."""


@torch.no_grad()
def calibrate(student: GPT, teacher: GPT, blocks: Iterable[Tensor]) -> None:
    """Set gain and tau of every head of a student so that its attention returns what the teacher's does.

    Both are given the teacher's queries, keys and values. For each tau that is tried, the gain is that of least
    squares; the tau whose rest is least is kept. A student without one of the two keeps it at 1.

    Args:
        student: Has the teacher's weights and another kernel that learns tau, gain or both.
        teacher: In evaluation mode.
        blocks: What is read, each (1, T).
    """
    mine = attentions(student)
    sums = [[torch.zeros(3, student.shape.n_head, dtype=torch.float64) for _ in _taus(each)] for each in mine]
    attend = attention_path(student.shape.kernel, "auto", block_size=student.shape.block_size)

    def watch(layer: int, query: Tensor, key: Tensor, value: Tensor, found: Tensor) -> None:
        for number, tau in enumerate(_taus(mine[layer])):
            root = math.sqrt(tau)
            own = attend(query * root, key * root, value, 0.0)
            products = torch.stack([own * own, own * found, found * found])  # (3, B, H, T, D)
            sums[layer][number] += products.double().sum((1, 3, 4)).cpu()

    with observed(teacher, watch):
        for block in blocks:
            teacher(block)
    for attention, own in zip(mine, sums, strict=True):
        _settle(attention, torch.stack(own))


def _taus(attention: Attention) -> list[float]:
    return TAUS if attention.log_tau is not None else [1.0]


def _settle(attention: Attention, sums: Tensor) -> None:
    """Choose tau and gain from the sums of own own, own found and found found, (taus, 3, H)."""
    own, cross, found = sums.unbind(1)
    gain = cross / own.clamp(min=1e-30) if attention.gain is not None else torch.ones_like(cross)
    rest = found - 2 * gain * cross + gain.square() * own  # (taus, H)
    rest = rest.nan_to_num(nan=math.inf)  # a polynomial overflows where a tau puts arguments outside its range
    gain = gain.nan_to_num(nan=0.0)
    if attention.log_tau is not None:
        kv_heads = len(attention.log_tau.weight)
        best = rest.view(len(rest), kv_heads, -1).sum(-1).argmin(0)  # (G,)
        attention.log_tau.weight.copy_(torch.tensor([math.log(TAUS[each]) for each in best.tolist()]))
        of_heads = best.repeat_interleave(gain.shape[1] // kv_heads)
    else:
        of_heads = torch.zeros(gain.shape[1], dtype=torch.int64)
    if attention.gain is not None:
        attention.gain.weight.copy_(gain.gather(0, of_heads[None])[0])
