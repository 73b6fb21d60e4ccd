"""Keys and values of the positions already seen, so that each new token costs one position."""

from __future__ import annotations

import torch
from torch import Tensor

from quillgpt.model.shape import ModelShape


class KeyValueCache:
    """Preallocated keys and values of every layer.

    Attributes:
        length: Positions filled, at most the model's block_size.
    """

    def __init__(self, shape: ModelShape, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> None:
        size = (shape.n_layer, batch_size, shape.n_kv_head, shape.block_size, shape.head_dim)
        self._keys = torch.empty(size, device=device, dtype=dtype)
        self._values = torch.empty(size, device=device, dtype=dtype)
        self.length = 0

    @property
    def capacity(self) -> int:
        """Positions that fit."""
        return self._keys.shape[3]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, D) and return all so far, (B, G, S, D).

        `length` stays as it is until `advance`, because every layer of one pass writes at the same positions.
        """
        end = self.length + keys.shape[2]
        self._keys[layer, :, :, self.length : end] = keys
        self._values[layer, :, :, self.length : end] = values
        return self._keys[layer, :, :, :end], self._values[layer, :, :, :end]

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has now stored."""
        self.length += positions

    def clear(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0
