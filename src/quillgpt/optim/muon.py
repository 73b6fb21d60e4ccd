"""Muon: momentum whose update of each matrix is replaced by the nearest orthogonal matrix.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

`torch.optim.Muon` is not used. It orthogonalizes the joint matrix of queries, keys and values as one map, computes one
matrix at a time, and has no cautious decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that brings singular values near 1, chosen by its authors for speed: they end between 0.7 and 1.2."""

SMALLEST_NORM = 1e-7


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of matrices near 1 by a Newton-Schulz iteration in bfloat16.

    Args:
        matrices: (N, rows, columns).

    Returns:
        (N, rows, columns), bfloat16.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    A matrix that holds several linear maps, such as those of queries, keys and values, is orthogonalized map by map.
    All maps of one shape are computed in one batch. `torch.optim.Muon` takes every matrix as one map, computes one
    matrix after the other, and has no cautious decay.

    Args:
        parameters: Matrices.
        lr: Learning rate, a number or a tensor. A matrix of r rows and c columns has sqrt(max(1, r / c)) times it.
        weight_decay: Decoupled weight decay.
        momentum: Share of the momentum that a step keeps.
        fused_maps: The rows of the linear maps in every parameter that holds several.
        cautious: Decay only those weights that the update also moves toward zero, so that decay never works against the
            update (Chen et al. 2025, arXiv 2510.12402).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float | Tensor,
        weight_decay: float,
        momentum: float = 0.95,
        fused_maps: dict[Tensor, list[int]] | None = None,
        cautious: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._fused_maps = fused_maps or {}
        self._cautious = cautious

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            gradients: list[Tensor] = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's look ahead
            self._apply(group, parameters, list(updates))

    def _apply(self, group: dict[str, Any], parameters: list[Tensor], updates: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter, update in zip(parameters, updates, strict=True):
            rows = self._fused_maps.get(parameter, [len(parameter)])
            for pair in zip(torch.split(parameter, rows), torch.split(update, rows), strict=True):
                by_shape.setdefault(pair[0].shape, []).append(pair)
        for shape, pairs in by_shape.items():
            weights = [weight for weight, _ in pairs]
            directions = orthogonalize(torch.stack([update for _, update in pairs]))
            together = torch.stack(weights)
            shrunk = together * (group["lr"] * group["weight_decay"])
            if self._cautious:
                shrunk *= directions * together > 0
            step_size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_sub_(weights, list((directions * step_size + shrunk).unbind()))
