"""Which parameters decay, and which optimizer takes which."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from quillgpt.distributed import ALONE, World
from quillgpt.model import GPT

NamedParameters = dict[str, nn.Parameter]


@dataclass(frozen=True)
class ParameterGroups:
    """The trained parameters of a model by name, in groups that are optimized differently.

    Attributes:
        block_matrices: 2-D weights inside the blocks, which decay.
        embeddings: Embeddings, and the head if it is not tied to them, which decay.
        vectors: Biases and norm weights, which do not decay.
        fused_maps: The rows of the linear maps in every block matrix that holds several, by the matrix's name.
        world: The processes that train them together.
        native: Whether kernels of Quill's own update the block matrices.
    """

    block_matrices: NamedParameters
    embeddings: NamedParameters
    vectors: NamedParameters
    fused_maps: dict[str, list[int]]
    world: World = ALONE
    native: bool = False

    @property
    def decayed(self) -> NamedParameters:
        """The parameters with two or more dimensions."""
        return self.embeddings | self.block_matrices

    @property
    def trained(self) -> NamedParameters:
        """All parameters."""
        return self.decayed | self.vectors

    def without_values(self) -> ParameterGroups:
        """Return the same groups on the device `meta`: shapes and number formats that take no memory."""
        return replace(
            self,
            block_matrices=_on_meta(self.block_matrices),
            embeddings=_on_meta(self.embeddings),
            vectors=_on_meta(self.vectors),
            world=ALONE,
            native=False,
        )


def group_parameters(model: GPT, world: World = ALONE, *, native: bool = False) -> ParameterGroups:
    """Sort the parameters of a model that are trained, by the processes of `world` together, into groups."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {name for name, parameter in trainable.items() if parameter.ndim >= 2}
    in_blocks = {name for name in matrices if name.startswith("blocks.")}
    return ParameterGroups(
        block_matrices={name: trainable[name] for name in trainable if name in in_blocks},
        embeddings={name: trainable[name] for name in trainable if name in matrices - in_blocks},
        vectors={name: trainable[name] for name in trainable if name not in matrices},
        fused_maps={
            name: rows for end, rows in model.config.fused_maps.items() for name in in_blocks if name.endswith(end)
        },
        world=world,
        native=native,
    )


def count_values(parameters: NamedParameters) -> str:
    """Return the number of tensors and values: `26 tensors, 10,740,096 values`."""
    return f"{len(parameters)} tensors, {sum(p.numel() for p in parameters.values()):,} values"


def _on_meta(parameters: NamedParameters) -> NamedParameters:
    return {
        name: nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"))
        for name, parameter in parameters.items()
    }
