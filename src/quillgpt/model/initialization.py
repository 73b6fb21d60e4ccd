"""Initial weights, by GPT-2's rule."""

from __future__ import annotations

import math

import torch
from torch import nn

from quillgpt.model.shape import GPTConfig

STANDARD_DEVIATION = 0.02


@torch.no_grad()
def initialize(model: nn.Module, n_layer: int, seed: int, *, zero_projections: bool = False) -> None:
    """Draw all weights from N(0, 0.02), biases 0, norms 1; residual projections scaled by 1/sqrt(2 n_layer).

    The scale keeps the variance of the residual stream, to which 2 n_layer projections add, near that of the
    embedding (Radford et al. 2019, section 2.3). The same seed gives the same weights on every device, because they
    are drawn on the CPU.

    Args:
        model: Its norms start at 1; modules `output` (of attention) and `down` (of the MLP) are the residual
            projections.
        n_layer: Number of blocks.
        seed: Seed of the draw.
        zero_projections: Start the residual projections at 0 instead, so that each block begins as the identity.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            residual = name.endswith((".output.weight", ".down.weight"))
            scale = STANDARD_DEVIATION / math.sqrt(2 * n_layer) if residual else STANDARD_DEVIATION
            scale = 0.0 if residual and zero_projections else scale
            parameter.normal_(std=scale, generator=generator)
        elif name.endswith(".bias"):
            parameter.zero_()


def mean_distance_argument(config: GPTConfig) -> float:
    """Return about what x = -|q-k|^2 / (2 sqrt D) is for an average pair of a model that is just initialized.

    Entries of queries and keys have a variance of 0.02^2 C, or 1 where they are normalised, and the difference of two
    independent ones has twice that, so x = -sqrt(D) variance. Further than a few below 0 a Gaussian kernel's weights
    are next to nothing, and so is what its attention returns.
    """
    normalised = config.arch == "qwen3" or config.kernel.qk_norm
    variance = 1.0 if normalised else STANDARD_DEVIATION**2 * config.n_embd
    return -math.sqrt(config.head_dim) * variance
