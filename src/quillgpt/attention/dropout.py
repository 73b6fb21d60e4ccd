"""Dropout whose random numbers are cheap on CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with the given probability and scale the rest so that the mean stays (arXiv 1207.0580).

    PyTorch draws its mask on one core, one element at a time, which took 39 % of a training step of a model with 10M
    parameters. Here every 64-bit number of the same generator decides over four elements, so the probability is
    rounded to a multiple of 2^-16; the scale matches the rounded value exactly. Other devices use PyTorch's dropout.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    if torch.compiler.is_compiling():
        # A new empty tensor for every call keeps the compiler from merging equal calls.
        factors: Tensor = compiled_factors(torch.empty(x.shape, dtype=x.dtype), probability)
    else:
        factors = draw_factors(x, probability)
    return x * factors


def draw_factors(like: Tensor, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw a factor for each element of `like`, in its type and on its device: 0, or the scale of those that stay."""
    dropped_levels = min(round(probability * LEVELS), LEVELS - 1)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(1 << 63), None, generator=generator)
    draws = words.view(torch.int16)[: like.numel()].view(like.shape)  # uniform on [-2^15, 2^15)
    keep = (draws >= dropped_levels - LEVELS // 2).to(like.dtype)
    return keep.mul_(LEVELS / (LEVELS - dropped_levels))


def _draw_factors(like: Tensor, probability: float) -> Tensor:
    return draw_factors(like, probability)


# The compiler takes this as a single step, so a compiled model draws the same numbers as an uncompiled one.
compiled_factors = torch.library.custom_op(
    "quill::dropout_factors",
    _draw_factors,
    mutates_args=(),
    tags=(torch.Tag.nondeterministic_seeded,),
)


@compiled_factors.register_fake
def _(like: Tensor, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)
