"""The activations of pointwise attention, whose kernels are called PA_NAME.

One entry of `ACTIVATIONS` is all that a new one takes. The settings read the names without PyTorch, which is imported
when the first activation is computed.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:

    class LazyModule:
        """A module that is imported when something of it is first used."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> object:
            member = getattr(importlib.import_module(self._name), attribute)
            setattr(self, attribute, member)
            return member

    torch, F = LazyModule("torch"), LazyModule("torch.nn.functional")


@dataclass(frozen=True)
class Activation:
    """A function phi of the attention score s = q.k / sqrt(D) + attn_bias, which gives a key its weight.

    Attributes:
        value: phi(s), computed as fast as PyTorch can.
        slope: Given s and phi(s), returns phi'(s).
        formula: phi(s) from its definition, for the slow reference, written apart from `value`.
        signed: Whether phi can be negative; then a query's weights cannot be divided by their sum.
    """

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    formula: Callable[[Tensor], Tensor]
    signed: bool = False


def _gelu_slope(s: Tensor, _: Tensor) -> Tensor:
    density = torch.exp(-0.5 * s * s) / math.sqrt(2 * math.pi)
    return 0.5 * (1 + torch.erf(s / math.sqrt(2))) + s * density


def _silu_slope(s: Tensor, phi: Tensor) -> Tensor:
    share = torch.sigmoid(s)
    return share + phi * (1 - share)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(
        value=lambda s: F.gelu(s),
        slope=_gelu_slope,
        formula=lambda s: 0.5 * s * (1 + torch.erf(s / math.sqrt(2))),
        signed=True,
    ),
    "relu": Activation(
        value=lambda s: F.relu(s),
        slope=lambda s, _: (s > 0).to(s.dtype),
        formula=lambda s: s.clamp(min=0),
    ),
    "sigmoid": Activation(
        value=lambda s: torch.sigmoid(s),
        slope=lambda _, phi: phi * (1 - phi),
        formula=lambda s: 1 / (1 + torch.exp(-s)),
    ),
    "square": Activation(
        value=lambda s: torch.square(s),
        slope=lambda s, _: 2 * s,
        formula=lambda s: s * s,
    ),
    "relu-square": Activation(
        value=lambda s: F.relu(s).square(),
        slope=lambda s, _: 2 * F.relu(s),
        formula=lambda s: s.clamp(min=0) ** 2,
    ),
    "softplus": Activation(
        value=lambda s: torch.logaddexp(s, torch.zeros_like(s)),
        slope=lambda s, _: torch.sigmoid(s),
        formula=lambda s: torch.log1p(torch.exp(-s.abs())) + s.clamp(min=0),
    ),
    "tanh": Activation(
        value=lambda s: torch.tanh(s),
        slope=lambda _, phi: 1 - phi * phi,
        formula=lambda s: 2 / (1 + torch.exp(-2 * s)) - 1,
        signed=True,
    ),
    "exp": Activation(
        value=lambda s: torch.exp(s),
        slope=lambda _, phi: phi,
        formula=lambda s: torch.exp(s),
    ),
    "identity": Activation(
        value=lambda s: torch.clone(s),
        slope=lambda s, _: torch.ones_like(s),
        formula=lambda s: s,
        signed=True,
    ),
    "elu1": Activation(
        value=lambda s: F.elu(s) + 1,
        slope=lambda s, _: torch.exp(s.clamp(max=0)),
        formula=lambda s: torch.where(s > 0, s + 1, torch.exp(s.clamp(max=0))),
    ),
    "silu": Activation(
        value=lambda s: F.silu(s),
        slope=_silu_slope,
        formula=lambda s: s / (1 + torch.exp(-s)),
        signed=True,
    ),
}
