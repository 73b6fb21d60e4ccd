"""Speed, memory and error of each path of an attention kernel, forward and backward, compared with its naive form."""

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
"""Tokens over which errors are measured: the float64 reference needs much memory."""


@dataclass(frozen=True)
class AttentionWork:
    """The attention that is measured.

    Attributes:
        spec: The kernel.
        sizes: B, H, T and D.
        dtype: Name of the number format of queries, keys and values.
        threads: CPU threads.
        spread: Standard deviation of the entries of queries, keys and values.
    """

    spec: KernelSpec
    sizes: tuple[int, int, int, int]
    dtype: str
    threads: int
    spread: float


@dataclass(frozen=True)
class AttentionResult:
    """The numbers of one path.

    Attributes:
        attention: The kernel.
        path: How it is computed; `naive` uses whole T x T tensors and autograd.
        milliseconds: Time of forward and backward, the median over the rounds.
        times_as_fast: The naive form's time divided by this one's, the median over the rounds.
        peak_megabytes: Peak memory of a pass, without its inputs; None if it is not known.
        relative_error: The largest relative error of the output and the three gradients, measured as the norm of the
            difference from the float64 reference over 256 tokens.
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
    workers = {name: Worker(Passes, work, name) for name in names}
    try:
        throughputs = run_rounds({name: partial(worker.ask, Passes.rate) for name, worker in workers.items()}, rounds)
        errors = {name: worker.ask(Passes.error) for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    peaks = {name: peak_megabytes(work, name) for name in names}
    return [
        AttentionResult(
            attention=str(work.spec),
            path=name,
            milliseconds=1000 / throughputs[name].median,
            times_as_fast=1 / throughputs[name].ratio,
            peak_megabytes=peaks[name],
            relative_error=errors[name],
        )
        for name in names
    ]


def peak_megabytes(work: AttentionWork, path: str) -> float | None:
    """Return the memory of a pass without its inputs, in a new process; None if it is not known."""
    with Worker(Passes, work, path) as fresh:  # a used process keeps freed memory, which would not count again
        return fresh.ask(Passes.peak_megabytes)


class Passes:
    """Forward and backward passes of one path over random inputs."""

    def __init__(self, work: AttentionWork, path: str) -> None:
        choose_threads(work.threads)
        self.work, self.path = work, path
        self.inputs = self._draw(work.sizes[2], getattr(torch, work.dtype))

    def rate(self) -> float:
        """Run one pass, and return passes per second."""
        start = time.perf_counter()
        self._pass(self.inputs)
        return 1 / (time.perf_counter() - start)

    def peak_megabytes(self) -> float | None:
        """Return the memory of a pass without its inputs; None if it is not known."""
        self._pass(self._draw(SHORT, getattr(torch, self.work.dtype)))  # loads libraries, whose memory must not count
        gc.collect()
        before = reset_peak()
        self._pass(self.inputs)
        after = peak_resident_bytes()
        return None if before is None or after is None else (after - before) / 1e6

    def error(self) -> float:
        """Return the largest relative error of the output and the gradients."""
        inputs = self._draw(min(CHECKED_LENGTH, self.work.sizes[2]), getattr(torch, self.work.dtype))
        exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
        reference = output_and_gradients(
            partial(_reference, spec=self.work.spec, block_size=self.work.sizes[2]), exact_inputs
        )
        return max(
            float((tensor.double() - expected).norm() / expected.norm())
            for tensor, expected in zip(self._pass(inputs), reference, strict=True)
        )

    def _draw(self, length: int, dtype: torch.dtype) -> list[Tensor]:
        batch, heads, _, width = self.work.sizes
        generator = torch.Generator().manual_seed(0)
        tensors = (torch.randn(batch, heads, length, width, generator=generator) * self.work.spread for _ in range(3))
        return [tensor.to(dtype).requires_grad_() for tensor in tensors]

    def _pass(self, inputs: list[Tensor]) -> list[Tensor]:
        spec, block_size = self.work.spec, self.work.sizes[2]
        if self.path == NAIVE:
            return output_and_gradients(partial(naive, spec=spec, block_size=block_size), inputs)
        path = attention_path(spec, self.path, block_size=block_size)
        return output_and_gradients(lambda query, key, value: path(query, key, value, 0.0), inputs)


def output_and_gradients(attend, inputs: list[Tensor]) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Return the output of attention, and the gradients of its sum with respect to the inputs."""
    output = attend(*inputs)
    return [output.detach(), *torch.autograd.grad(output.sum(), inputs)]


def _reference(query: Tensor, key: Tensor, value: Tensor, *, spec: KernelSpec, block_size: int) -> Tensor:
    return reference_weights(query, key, spec, block_size=block_size) @ value


def naive(query: Tensor, key: Tensor, value: Tensor, *, spec: KernelSpec, block_size: int) -> Tensor:
    """Compute attention with whole T x T tensors, as a first implementation would: (B, H, T, D) to (B, H, T, D)."""
    T, D = query.shape[-2:]
    hidden = ~torch.ones(T, T, dtype=torch.bool).tril()
    argument = query @ key.mT
    if spec.type.family == "SM":
        return (argument / math.sqrt(D)).masked_fill(hidden, -math.inf).softmax(-1) @ value
    if spec.of_distance:
        halves = [0.5 * vectors.square().sum(-1) for vectors in (query, key)]
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


def result_line(result: AttentionResult) -> str:
    """Write a result as one line."""
    memory = "memory not known" if result.peak_megabytes is None else f"{result.peak_megabytes:,.0f} MB"
    return (
        f"{number(result.milliseconds)} ms, {number(result.times_as_fast)} times as fast as naive, {memory}, "
        f"relative error {result.relative_error:.1e}"
    )
