"""Calibrating a kernel that replaces softmax: the gain and the width of each head are fitted without training.

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
"""The factors of the squared distance that are tried: from 1/32 to 8."""


@torch.no_grad()
def calibrate(student: GPT, teacher: GPT, blocks: Iterable[Tensor]) -> None:
    """Set gain and tau of every head of the student so that its attention output is close to the teacher's.

    Both receive the teacher's queries, keys and values. For every factor of the teacher's tau, the gain is fitted by
    least squares; the tau with the smallest error is kept. A student without a gain or a tau keeps it at 1.

    Args:
        student: The model to set: the teacher's weights, with a kernel that learns tau, gain or both.
        teacher: The model to imitate, in evaluation mode.
        blocks: The tokens to read, (1, T) each.
    """
    student_layers, teacher_layers = kernel_attentions(student), attentions(teacher)
    if not student_layers:
        return  # plain softmax has neither gain nor tau
    n_head = student.config.n_head
    sums = [[torch.zeros(3, n_head, dtype=torch.float64) for _ in _taus(attention)] for attention in student_layers]
    attend = attention_path(student.config.kernel, "auto", block_size=student.config.block_size)

    def watch(layer: int, query: Tensor, key: Tensor, value: Tensor, expected: Tensor) -> None:
        own, their = student_layers[layer], teacher_layers[layer]
        if isinstance(their, KernelAttention) and their.gain is not None:
            expected = expected * their.gain(expected)
        root = _root_of_tau(their, query)
        query, key = query / root, key / root
        if own.unit_norm:
            query, key = F.rms_norm(query, query.shape[-1:]), F.rms_norm(key, key.shape[-1:])
        for number, factor in enumerate(_taus(own)):
            width = math.sqrt(factor) * (root if own.log_tau is not None else 1.0)
            output = attend(query * width, key * width, value, 0.0)
            products = torch.stack([output * output, output * expected, expected * expected])  # (3, B, H, T, D)
            sums[layer][number] += products.double().sum((1, 3, 4)).cpu()

    with observed(teacher, watch):
        for block in blocks:
            teacher(block)
    for own, their, layer_sums in zip(student_layers, teacher_layers, sums, strict=True):
        _choose(own, their, torch.stack(layer_sums))


def _root_of_tau(attention: CausalSelfAttention, query: Tensor) -> Tensor:
    """Return the factor of queries and keys for each head, the root of tau: (H, 1, 1)."""
    log_tau = _log_tau(attention)
    if log_tau is None:
        return query.new_ones(query.shape[1], 1, 1)
    root = torch.exp(0.5 * log_tau(query))
    return root.repeat_interleave(query.shape[1] // len(root), 0)


def _log_tau(attention: CausalSelfAttention) -> PerHead | None:
    return attention.log_tau if isinstance(attention, KernelAttention) else None


def _taus(attention: KernelAttention) -> list[float]:
    return TAUS if attention.log_tau is not None else [1.0]


def _choose(attention: KernelAttention, teacher: CausalSelfAttention, sums: Tensor) -> None:
    """Choose tau and gain from the sums (taus, 3, H) of output², output * expected and expected²."""
    output, cross, expected = sums.unbind(1)
    gain = cross / output.clamp(min=1e-30) if attention.gain is not None else torch.ones_like(cross)
    error = expected - 2 * gain * cross + gain.square() * output  # (taus, H)
    error = error.nan_to_num(nan=math.inf)  # a polynomial overflows if a tau puts arguments outside its range
    gain = gain.nan_to_num(nan=0.0)
    if attention.log_tau is not None:
        kv_heads = len(attention.log_tau.weight)
        best = error.view(len(error), kv_heads, -1).sum(-1).argmin(0)  # (G,)
        factors = torch.tensor([math.log(TAUS[index]) for index in best.tolist()])
        before = _log_tau(teacher)
        attention.log_tau.weight.copy_(factors if before is None else before.weight.cpu() + factors)
        best_of_heads = best.repeat_interleave(gain.shape[1] // kv_heads)
    else:
        best_of_heads = torch.zeros(gain.shape[1], dtype=torch.int64)
    if attention.gain is not None:
        attention.gain.weight.copy_(gain.gather(0, best_of_heads[None])[0])
