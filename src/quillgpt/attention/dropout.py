"""Dropout: cheap on CPUs, and by seeds a function of the sequence instead of the batch in which it is computed.

Seeds are int64 tensors of any 64 bits. `spread` makes many seeds out of one: an iteration's becomes one for each place
in the global batch, and a sequence's one for each part of the model that drops something. No state is kept. So a pass
drops the same when it is computed again, compiled, cut into micro-batches or divided between ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
"""2^64 divided by the golden ratio, as a signed number: its multiples are all different and far apart."""

WARM_UP = 12
"""Outputs of SFC64 after which its three equal words of seed are mixed."""


def dropout(x: Tensor, probability: float, seeds: Tensor | None = None) -> Tensor:
    """Zero each element with the given probability and scale the rest so that the mean stays (arXiv 1207.0580).

    The probability is rounded to a multiple of 2^-16; the scale matches the rounded value exactly.

    Args:
        x: Of any shape.
        probability: Of dropping an element.
        seeds: Int64, one for each row of the first dimension. A row's elements that are dropped depend on its seed
            and its shape alone. None: PyTorch's generator draws them.
    """
    if probability == 0:
        return x
    if seeds is not None:
        return x * seeded_factors(seeds, x.shape, x.dtype, probability)
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    if torch.compiler.is_compiling():
        # A new empty tensor for every call keeps the compiler from merging equal calls.
        factors: Tensor = compiled_factors(torch.empty(x.shape, dtype=x.dtype), probability)
    else:
        factors = draw_factors(x, probability)
    return x * factors


def spread(seeds: Tensor, count: int, *, first: int = 0) -> Tensor:
    """Return seeds numbered `first` and on, made of each of the given ones: (...) to (count, ...)."""
    numbers = torch.arange(first, first + count, device=seeds.device)
    return scramble(scramble(seeds) + numbers.view(-1, *[1] * seeds.ndim))


def scramble(x: Tensor) -> Tensor:
    """Map 64-bit numbers one to one to numbers that look random, even where they follow each other.

    SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") does this with the
    multiples of its constant.
    """
    x = x * GOLDEN  # after a sum with unknown seeds: compiled C++ must not see a loop's counter overflow
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ (x >> 31 & (1 << 33) - 1)


def seeded_factors(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype, probability: float) -> Tensor:
    """Return a factor for each element of a tensor: 0, or the scale of those that stay.

    Args:
        seeds: Int64 (M,).
        shape: Of the tensor, (M, ...).
        dtype: Of the factors.
        probability: Of a factor of 0.
    """
    if seeds.device.type != "cpu":
        return hashed_factors(seeds, shape, dtype, probability)
    if torch.compiler.is_compiling():
        return compiled_seeded_factors(seeds, shape, dtype, probability)  # type: ignore[no-any-return]
    return generated_factors(seeds, shape, dtype, probability)


def generated_factors(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype, probability: float) -> Tensor:
    """Compute `seeded_factors` on a CPU: a row's 64-bit numbers are those of SFC64, a small and fast generator.

    SFC64 (Doty-Humphrey's PractRand) starts from the row's seed as its author starts it.
    """
    length = torch.Size(shape[1:]).numel()
    words = torch.empty(len(seeds), WARM_UP - (-length // 4), dtype=torch.int64)
    generator = np.random.SFC64(0)
    start = np.ones(4, dtype=np.uint64)  # three words of seed, and a counter that begins at 1
    state = generator.state | {"state": {"state": start}}
    for row, seed in zip(words.numpy().view(np.uint64), seeds.numpy().view(np.uint64), strict=True):
        start[:3] = seed
        generator.state = state
        row[:] = generator.random_raw(len(row))  # one call: each takes as long as some hundred numbers
    return _factors_of(words[:, WARM_UP:].view(torch.int16)[:, :length].view(shape), dtype, probability)


def hashed_factors(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype, probability: float) -> Tensor:
    """Compute `seeded_factors` on a GPU: an element's number is a hash of its row's seed and its place in the row.

    These are elementwise operations on integers, which a compiler fuses with the product that follows.
    """
    places = torch.arange(torch.Size(shape[1:]).numel(), device=seeds.device).view(1, *shape[1:])
    hashes = scramble(scramble(seeds).view(-1, *[1] * (len(shape) - 1)) + places)
    return _factors_of(hashes >> 48, dtype, probability)


def draw_factors(like: Tensor, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw a factor for each element of `like`, in its type and on its device: 0, or the scale of those that stay.

    PyTorch draws a mask on one core, one element at a time, which took 39 % of a training step of a model with 10M
    parameters. Here every 64-bit number of the same generator decides over four elements.
    """
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(1 << 63), None, generator=generator)
    return _factors_of(words.view(torch.int16)[: like.numel()].view(like.shape), like.dtype, probability)


def _factors_of(draws: Tensor, dtype: torch.dtype, probability: float) -> Tensor:
    """Return the factors that integers uniform on [-2^15, 2^15) stand for."""
    dropped = dropped_levels(probability)
    keep = torch.ge(draws, dropped - LEVELS // 2, out=torch.empty_like(draws, dtype=dtype))
    return keep.mul_(LEVELS / (LEVELS - dropped))


def dropped_levels(probability: float) -> int:
    """Return how many of the levels stand for elements that are dropped."""
    return min(round(probability * LEVELS), LEVELS - 1)


def _draw_factors(like: Tensor, probability: float) -> Tensor:
    return draw_factors(like, probability)


# The compiler takes these as single steps, so a compiled model drops the same as an uncompiled one.
compiled_factors = torch.library.custom_op(
    "quill::dropout_factors",
    _draw_factors,
    mutates_args=(),
    tags=(torch.Tag.nondeterministic_seeded,),
)
compiled_seeded_factors = torch.library.custom_op("quill::seeded_dropout_factors", generated_factors, mutates_args=())


@compiled_factors.register_fake
def _(like: Tensor, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


@compiled_seeded_factors.register_fake
def _(seeds: Tensor, shape: Sequence[int], dtype: torch.dtype, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty(shape, dtype=dtype, device=seeds.device)
