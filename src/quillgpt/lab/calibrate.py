"""A kernel in place of softmax: gains of heads, and widths of their Gaussians, that come nearest without training.

Shapes: B batch, H heads, G key and value heads, T position, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.lab.observe import attentions, observed
from quillgpt.model import GPT, attention_path
from quillgpt.model.gpt import CausalSelfAttention
from quillgpt.model.kernels import KernelAttention, PerHead, kernel_attentions

TAUS = [2 ** (k / 2) for k in range(-10, 7)]
"""Factors of the squared distance that are tried: from 1/32 to 8."""


@torch.no_grad()
def calibrate(student: GPT, teacher: GPT, blocks: Iterable[Tensor]) -> None:
    """Set gain and tau of every head of a student so that its attention returns what the teacher's does.

    Both are given the teacher's queries, keys and values. For each factor of the teacher's tau that is tried, the gain
    is that of least squares; the tau whose rest is least is kept. A student without one of the two keeps it at 1.

    Args:
        student: Has the teacher's weights and another kernel that learns tau, gain or both.
        teacher: In evaluation mode.
        blocks: What is read, each (1, T).
    """
    mine, theirs = kernel_attentions(student), attentions(teacher)
    if not mine:
        return  # plain softmax has neither gain nor tau
    sums = [[torch.zeros(3, student.config.n_head, dtype=torch.float64) for _ in _taus(each)] for each in mine]
    attend = attention_path(student.config.kernel, "auto", block_size=student.config.block_size)

    def watch(layer: int, query: Tensor, key: Tensor, value: Tensor, found: Tensor) -> None:
        own, their = mine[layer], theirs[layer]
        if isinstance(their, KernelAttention) and their.gain is not None:
            found = found * their.gain(found)
        root = _root_of_tau(their, query)
        query, key = query / root, key / root
        if own.unit_norm:
            query, key = F.rms_norm(query, query.shape[-1:]), F.rms_norm(key, key.shape[-1:])
        for number, factor in enumerate(_taus(own)):
            width = math.sqrt(factor) * (root if own.log_tau is not None else 1.0)
            got = attend(query * width, key * width, value, 0.0)
            products = torch.stack([got * got, got * found, found * found])  # (3, B, H, T, D)
            sums[layer][number] += products.double().sum((1, 3, 4)).cpu()

    with observed(teacher, watch):
        for block in blocks:
            teacher(block)
    for own, their, of_layer in zip(mine, theirs, sums, strict=True):
        _settle(own, their, torch.stack(of_layer))


def _root_of_tau(attention: CausalSelfAttention, query: Tensor) -> Tensor:
    """Return what an attention multiplies queries and keys by, (H, 1, 1)."""
    log_tau = _log_tau(attention)
    if log_tau is None:
        return query.new_ones(query.shape[1], 1, 1)
    root = torch.exp(0.5 * log_tau(query))
    return root.repeat_interleave(query.shape[1] // len(root), 0)


def _log_tau(attention: CausalSelfAttention) -> PerHead | None:
    return attention.log_tau if isinstance(attention, KernelAttention) else None


def _taus(attention: KernelAttention) -> list[float]:
    return TAUS if attention.log_tau is not None else [1.0]


def _settle(attention: KernelAttention, teacher: CausalSelfAttention, sums: Tensor) -> None:
    """Choose tau and gain from the sums of got got, got found and found found, (taus, 3, H)."""
    got, cross, found = sums.unbind(1)
    gain = cross / got.clamp(min=1e-30) if attention.gain is not None else torch.ones_like(cross)
    rest = found - 2 * gain * cross + gain.square() * got  # (taus, H)
    rest = rest.nan_to_num(nan=math.inf)  # a polynomial overflows where a tau puts arguments outside its range
    gain = gain.nan_to_num(nan=0.0)
    if attention.log_tau is not None:
        kv_heads = len(attention.log_tau.weight)
        best = rest.view(len(rest), kv_heads, -1).sum(-1).argmin(0)  # (G,)
        factors = torch.tensor([math.log(TAUS[each]) for each in best.tolist()])
        before = _log_tau(teacher)
        attention.log_tau.weight.copy_(factors if before is None else before.weight.cpu() + factors)
        of_heads = best.repeat_interleave(gain.shape[1] // kv_heads)
    else:
        of_heads = torch.zeros(gain.shape[1], dtype=torch.int64)
    if attention.gain is not None:
        attention.gain.weight.copy_(gain.gather(0, of_heads[None])[0])
