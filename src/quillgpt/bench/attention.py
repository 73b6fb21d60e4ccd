"""Speed, memory and error of the paths of an attention kernel, forward and backward, beside the naive form of it."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.attention.reference import reference_weights
from quillgpt.bench.memory import reset_peak
from quillgpt.bench.results import number
from quillgpt.bench.rounds import run_rounds
from quillgpt.bench.worker import Worker
from quillgpt.device import choose_threads
from quillgpt.model import attention_path, attention_paths
from quillgpt.process import peak_resident_bytes

NAIVE = "naive"
SHORT = 16
CHECKED_LENGTH = 256
"""Tokens over which errors are measured against float64, whose naive form needs memory."""


@dataclass(frozen=True)
class AttentionWork:
    """What is computed.

    Attributes:
        spec: The kernel.
        sizes: B, H, T and D.
        dtype: Number format of queries, keys and values, by its name.
        threads: CPU threads.
        spread: Standard deviation of their entries.
    """

    spec: KernelSpec
    sizes: tuple[int, int, int, int]
    dtype: str
    threads: int
    spread: float


@dataclass(frozen=True)
class AttentionResult:
    """What one path came to.

    Attributes:
        attention: The kernel.
        path: How it is computed; `naive` is one tensor of T x T after the other, differentiated by autograd.
        milliseconds: Forward and backward, the median of the rounds.
        times_as_fast: The naive form's time over this one's, median over the rounds.
        peak_megabytes: The most memory that a pass held at a time, beyond its inputs; None where it is not known.
        relative_error: Norm of result and gradients less those of the formula in float64, over the latter's; the
            largest of the four, over 256 tokens.
    """

    attention: str
    path: str
    milliseconds: float
    times_as_fast: float
    peak_megabytes: float | None
    relative_error: float


def bench_attention(work: AttentionWork, rounds: int) -> list[AttentionResult]:
    """Measure every path in turn, each in a process of its own, the naive form first."""
    names = [NAIVE, *attention_paths(work.spec, block_size=work.sizes[2])]
    held = {name: Worker(Passes, work, name) for name in names}
    try:
        timings = run_rounds({name: partial(each.ask, Passes.rate) for name, each in held.items()}, rounds)
        errors = {name: each.ask(Passes.error) for name, each in held.items()}
    finally:
        for each in held.values():
            each.close()
    peaks = {name: peak_megabytes(work, name) for name in names}
    return [
        AttentionResult(
            attention=str(work.spec),
            path=name,
            milliseconds=1000 / timings[name].median,
            times_as_fast=1 / timings[name].ratio,
            peak_megabytes=peaks[name],
            relative_error=errors[name],
        )
        for name in names
    ]


def peak_megabytes(work: AttentionWork, path: str) -> float | None:
    """Return the memory that a pass needs beyond its inputs, in a process of its own; None where it is not known."""
    with Worker(Passes, work, path) as fresh:  # freed memory stays with a process, and would not count again
        return fresh.ask(Passes.peak_megabytes)


class Passes:
    """Forward and backward passes of one path over random inputs."""

    def __init__(self, work: AttentionWork, path: str) -> None:
        choose_threads(work.threads)
        self.work, self.path = work, path
        self.inputs = self._draw(work.sizes[2], getattr(torch, work.dtype))

    def rate(self) -> float:
        """Do one pass, and return how many of them a second holds."""
        start = time.perf_counter()
        self._pass(self.inputs)
        return 1 / (time.perf_counter() - start)

    def peak_megabytes(self) -> float | None:
        """Return the memory that a pass needs beyond its inputs."""
        self._pass(self._draw(SHORT, getattr(torch, self.work.dtype)))  # brings the program's own memory with it
        gc.collect()
        before = reset_peak()
        self._pass(self.inputs)
        after = peak_resident_bytes()
        return None if before is None or after is None else (after - before) / 1e6

    def error(self) -> float:
        """Return the largest relative error of result and gradients."""
        inputs = self._draw(min(CHECKED_LENGTH, self.work.sizes[2]), getattr(torch, self.work.dtype))
        exact = [each.detach().double().requires_grad_() for each in inputs]
        truth = gradients(partial(_reference, spec=self.work.spec, block_size=self.work.sizes[2]), exact)
        return max(
            float((found.double() - expected).norm() / expected.norm())
            for found, expected in zip(self._pass(inputs), truth, strict=True)
        )

    def _draw(self, length: int, dtype: torch.dtype) -> list[Tensor]:
        batch, heads, _, width = self.work.sizes
        generator = torch.Generator().manual_seed(0)
        drawn = (torch.randn(batch, heads, length, width, generator=generator) * self.work.spread for _ in range(3))
        return [each.to(dtype).requires_grad_() for each in drawn]

    def _pass(self, inputs: list[Tensor]) -> list[Tensor]:
        spec, block_size = self.work.spec, self.work.sizes[2]
        if self.path == NAIVE:
            return gradients(partial(naive, spec=spec, block_size=block_size), inputs)
        path = attention_path(spec, self.path, block_size=block_size)
        return gradients(lambda query, key, value: path(query, key, value, 0.0), inputs)


def gradients(attend, inputs: list[Tensor]) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Return what attention gives, and the gradients of its sum with respect to its inputs."""
    result = attend(*inputs)
    return [result.detach(), *torch.autograd.grad(result.sum(), inputs)]


def _reference(query: Tensor, key: Tensor, value: Tensor, *, spec: KernelSpec, block_size: int) -> Tensor:
    return reference_weights(query, key, spec, block_size=block_size) @ value


def naive(query: Tensor, key: Tensor, value: Tensor, *, spec: KernelSpec, block_size: int) -> Tensor:
    """Compute attention with whole T x T tensors, as a first implementation does: (B, H, T, D) to (B, H, T, D)."""
    T, D = query.shape[-2:]
    hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
    argument = query @ key.mT
    if spec.type.family == "SM":
        return (argument / math.sqrt(D)).masked_fill(hidden, -math.inf).softmax(-1) @ value
    if spec.of_distance:
        halves = [0.5 * each.square().sum(-1) for each in (query, key)]
        argument = (argument - halves[0][..., None] - halves[1][..., None, :]).clamp(max=0)
    argument = argument / math.sqrt(D)
    if spec.type.family == "GKpoly" and spec.poly_form == "power2":
        weights = 1 + argument / 2**spec.type.n
        for _ in range(spec.type.n):
            weights = weights * weights
    else:
        weights = pointwise(spec).value(argument)
    weights = weights.masked_fill(hidden, 0)
    if spec.normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    scale = block_size**-spec.len_alpha if spec.type.family == "PA" and spec.len_scale == "block" else 1.0
    result: Tensor = weights @ value * scale
    return result


def shown(result: AttentionResult) -> str:
    """Write a result in a line."""
    memory = "memory not known" if result.peak_megabytes is None else f"{result.peak_megabytes:,.0f} MB"
    return (
        f"{number(result.milliseconds)} ms, {number(result.times_as_fast)} times as fast as naive, {memory}, "
        f"relative error {result.relative_error:.1e}"
    )
