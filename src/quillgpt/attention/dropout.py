"""Dropout whose random numbers do not cost more than the layer they drop from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 1 << 16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with the given probability and scale the rest so that the mean stays (arXiv 1207.0580).

    PyTorch draws its CPU mask one element at a time on one core, which took 39 % of a training step of a model of
    10M parameters. Here each 64-bit number of the same generator decides over four elements, so the probability is
    rounded to a multiple of 2^-16; the scale matches the rounded value exactly. On other devices it is PyTorch's own.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability)
    if torch.compiler.is_compiling():
        # The compiler takes two equal calls for one, unless each is given an empty tensor of its own.
        factors: Tensor = compiled_factors(torch.empty(x.shape, dtype=x.dtype), probability)
    else:
        factors = draw_factors(x, probability)
    return x * factors


def draw_factors(like: Tensor, probability: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw what each element is multiplied by: 0, or the scale of those that stay; shape, type and device as `like`."""
    dropped_levels = min(round(probability * LEVELS), LEVELS - 1)
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
    words.random_(-(1 << 63), None, generator=generator)
    draws = words.view(torch.int16)[: like.numel()].view(like.shape)  # uniform on [-2^15, 2^15)
    keep = (draws >= dropped_levels - LEVELS // 2).to(like.dtype)
    return keep.mul_(LEVELS / (LEVELS - dropped_levels))


def _draw_factors(like: Tensor, probability: float) -> Tensor:
    return draw_factors(like, probability)


# To the compiler this is one step that it takes as it is, so that a compiled model draws what an uncompiled one does.
compiled_factors = torch.library.custom_op(
    "quill::dropout_factors",
    _draw_factors,
    mutates_args=(),
    tags=(torch.Tag.nondeterministic_seeded,),
)


@compiled_factors.register_fake
def _(like: Tensor, probability: float) -> Tensor:  # noqa: ARG001
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)
