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
    rounded to a multiple of 2^-16; the scale matches the rounded value exactly. On other devices and under
    torch.compile it is PyTorch's own.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability)
    dropped_levels = min(round(probability * LEVELS), LEVELS - 1)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    draws = words.view(torch.int16)[: x.numel()].view(x.shape)  # uniform on [-2^15, 2^15)
    keep = (draws >= dropped_levels - LEVELS // 2).to(x.dtype)
    return x * keep.mul_(LEVELS / (LEVELS - dropped_levels))
