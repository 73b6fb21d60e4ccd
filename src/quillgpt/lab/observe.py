"""Watching the queries, keys and values of a model during a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from quillgpt.attention import Attend, KernelSpec, repeat_heads
from quillgpt.model import GPT
from quillgpt.model.gpt import CausalSelfAttention

Watch = Callable[[int, Tensor, Tensor, Tensor, Tensor], object]
"""Receives the number of a layer, its queries, keys and values, and the output of its kernel, each (B,H,T,D)."""


def attentions(model: GPT) -> list[CausalSelfAttention]:
    """Return the attention of every layer."""
    return [block.attention for block in model.blocks]  # type: ignore[misc]


@contextmanager
def observed(model: GPT, watch: Watch) -> Iterator[None]:
    """Call `watch` with the inputs and the output of every layer's kernel while the block runs."""
    kernels = [attention.path for attention in attentions(model)]

    def with_watch(layer: int, attend: Attend) -> Attend:
        def watched(
            query: Tensor,
            key: Tensor,
            value: Tensor,
            dropout: float,
            visible: Tensor | None = None,
            seeds: Tensor | None = None,
            /,
        ) -> Tensor:
            output = attend(query, key, value, dropout, visible, seeds)
            watch(layer, query, *repeat_heads(query, key, value), output)
            return output

        return watched

    try:
        for layer, (attention, attend) in enumerate(zip(attentions(model), kernels, strict=True)):
            attention.path = with_watch(layer, attend)
        yield
    finally:
        for attention, attend in zip(attentions(model), kernels, strict=True):
            attention.path = attend


def arguments(query: Tensor, key: Tensor, *, of_distance: bool) -> Tensor:
    """Return the arguments of all pairs, (..., T, S) in float32: s = q.k / sqrt(D), or x = -|q-k|^2 / (2 sqrt(D))."""
    query, key = query.float(), key.float()
    scores = query @ key.mT
    if of_distance:
        halves = [0.5 * vectors.square().sum(-1) for vectors in (query, key)]
        scores = (scores - halves[0].unsqueeze(-1) - halves[1].unsqueeze(-2)).clamp_(max=0)
    return scores / math.sqrt(query.shape[-1])


def uses_distance(kernel: KernelSpec) -> bool:
    """Whether x is the argument to measure: also for softmax, which a kernel of distance would replace."""
    return kernel.type.family != "PA"
