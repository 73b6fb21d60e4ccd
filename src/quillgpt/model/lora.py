"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv 2106.09685): finetuning that trains a small update of each matrix.

Shapes: K inputs, N outputs, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.attention import dropout
from quillgpt.config.schema import LoraTargets
from quillgpt.model.gpt import GPT, Block

PARTS: dict[LoraTargets, tuple[str, ...]] = {
    "all": ("attention", "mlp"),
    "attention": ("attention",),
    "mlp": ("mlp",),
}
"""The submodules of a block that get adapters, by the names of the setting."""


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trained product of two small matrices.

    Args:
        linear: The layer, whose weight and bias are shared under the same names.
        rank: R.
        scale: Factor of the product.
        dropout: Probability of dropping an input of the product in training.
        generator: Draws the first matrix; the second starts at zero, so the layer computes the same at first.
    """

    def __init__(
        self, linear: nn.Linear, *, rank: int, scale: float, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        bound = 1 / math.sqrt(linear.in_features)
        self.lora_a = nn.Parameter(torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator))
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, rank))
        self.scale = scale
        self.dropout = dropout
        self.train(linear.training)

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Multiply the last dimension: (..., K) to (..., N); `seeds` (B,) are those of `dropout`."""
        dropped = dropout(x, self.dropout if self.training else 0.0, seeds)
        update = F.linear(F.linear(dropped, self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * update

    @torch.no_grad()
    def merged_weight(self, read: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """Return the weight (N, K) of a plain layer that computes the same, from what `read` returns of a parameter."""
        return read(self.weight) + self.scale * (read(self.lora_b) @ read(self.lora_a))


def add_adapters(
    model: GPT, *, rank: int, alpha: float, dropout: float, targets: LoraTargets = "all", seed: int
) -> None:
    """Freeze a model on the CPU, and add adapters to the linear layers of its blocks.

    Args:
        model: The model with its weights.
        rank: R.
        alpha: The adapters' product is multiplied by alpha / rank.
        dropout: Probability of dropping an input of an adapter in training.
        targets: The part of a block whose layers get adapters.
        seed: Seed of the draw.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        assert isinstance(block, Block)
        block.fused = False  # which knows no adapters
        for part in PARTS[targets]:
            module = block.get_submodule(part)
            for name, linear in list(module.named_children()):
                if isinstance(linear, nn.Linear):
                    adapter = LoRALinear(linear, rank=rank, scale=alpha / rank, dropout=dropout, generator=generator)
                    setattr(module, name, adapter)


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Yield the layers of a model that have adapters, with their names."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def merged_tensors(
    model: GPT, read: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors, with their names, of a model without adapters that computes the same.

    Args:
        model: The model.
        read: Returns the values of a tensor; it is called when it is the tensor's turn.
    """
    merged = {f"{name}.weight": layer for name, layer in adapters(model)}
    for name, tensor in model.state_dict().items():
        if name in merged:
            yield name, merged[name].merged_weight(read)
        elif ".lora_" not in name:
            yield name, read(tensor)
