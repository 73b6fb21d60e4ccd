"""Looking at the queries, keys and values of a model while it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from quillgpt.attention import Attend, KernelSpec, repeat_heads
from quillgpt.model import GPT
from quillgpt.model.gpt import CausalSelfAttention

Watch = Callable[[int, Tensor, Tensor, Tensor, Tensor], object]
"""Is given a layer's number, its queries, keys and values, and what its kernel returned, each (B,H,T,D)."""


def attentions(model: GPT) -> list[CausalSelfAttention]:
    """Return the attention of every layer."""
    return [block.attention for block in model.blocks]  # type: ignore[misc]


@contextmanager
def observed(model: GPT, watch: Watch) -> Iterator[None]:
    """Let `watch` see what every layer's kernel is given, and what it returns."""
    own = [attention.path for attention in attentions(model)]

    def between(layer: int, attend: Attend) -> Attend:
        def watched(
            query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None, /
        ) -> Tensor:
            mixed = attend(query, key, value, dropout, visible)
            watch(layer, query, *repeat_heads(query, key, value), mixed)
            return mixed

        return watched

    try:
        for layer, (attention, attend) in enumerate(zip(attentions(model), own, strict=True)):
            attention.path = between(layer, attend)
        yield
    finally:
        for attention, attend in zip(attentions(model), own, strict=True):
            attention.path = attend


def arguments(query: Tensor, key: Tensor, *, of_distance: bool) -> Tensor:
    """Return all pairs' arguments, (..., T, S) in float32: s = q.k / sqrt(D), or x = -|q-k|^2 / (2 sqrt(D))."""
    query, key = query.float(), key.float()
    found = query @ key.mT
    if of_distance:
        halves = [0.5 * each.square().sum(-1) for each in (query, key)]
        found = (found - halves[0].unsqueeze(-1) - halves[1].unsqueeze(-2)).clamp_(max=0)
    return found / math.sqrt(query.shape[-1])


def looks_at_distance(kernel: KernelSpec) -> bool:
    """Say whether x is what is asked of a model: of softmax too, since that is what would take its place."""
    return kernel.type.family != "PA"
