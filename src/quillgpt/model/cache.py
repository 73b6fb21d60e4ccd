"""Keys and values of the positions already seen, so that each new token costs one position.

Shapes: B batch, G key and value heads, S key position, T new position, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quillgpt.model.gpt import GPTConfig

INT8_LIMIT = 127
SMALLEST_UNIT = 1e-30
"""A row of zeros is no reason to divide by zero."""


class KeyValueCache:
    """Preallocated keys and values of every layer.

    They may be kept in fewer bits than attention computes in: bfloat16, or 8 bits with a unit for each head and
    position, of which the largest entry is 127. A layer is then converted as a whole into a buffer that all layers
    share, which takes less time than reading float32 from memory would; PyTorch's own attention in bfloat16 is six
    times as slow for one query on a CPU.

    Args:
        config: Of the model.
        batch_size: Sequences.
        device: Where they are.
        dtype: Number format in which they are kept: the one of the keys and values that come, bfloat16, or int8.
        capacity: Positions to hold; None: the model's context.

    Attributes:
        length: Positions filled.
        capacity: Positions that fit.
        visible: Which keys the query of this pass may see, bool (1, S); None where causality alone decides.
    """

    visible: Tensor | None = None

    def __init__(
        self,
        config: GPTConfig,
        batch_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        capacity: int | None = None,
    ) -> None:
        self.capacity = config.block_size if capacity is None else capacity
        size = (config.n_layer, batch_size, config.n_kv_head, self.capacity, config.head_dim)
        # Zeros, because a masked key that is not a number would still spoil the sum over values.
        self.keys = torch.zeros(size, device=device, dtype=dtype).unbind()
        self.values = torch.zeros(size, device=device, dtype=dtype).unbind()
        self._units = torch.ones(2, *size[:-1], 1, device=device) if dtype == torch.int8 else None
        self._buffers: tuple[Tensor, Tensor] | None = None
        self.length = 0

    def begin(self, positions: int) -> slice | Tensor:
        """Return where the next positions are, as an index of a table of positions."""
        return slice(self.length, self.length + positions)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, D) and return all so far, (B, G, S, D).

        What is returned holds until the next layer is extended. `length` stays as it is until `advance`, because every
        layer of one pass writes at the same positions.
        """
        if keys.dtype == self.keys[layer].dtype:
            return self._append(self.keys[layer], keys), self._append(self.values[layer], values)
        if self._buffers is None:
            size = self.keys[layer].shape
            self._buffers = keys.new_empty(size), keys.new_empty(size)
        units = (None, None) if self._units is None else self._units[:, layer]
        return (
            self._append_converted(self.keys[layer], keys, units[0], self._buffers[0]),
            self._append_converted(self.values[layer], values, units[1], self._buffers[1]),
        )

    def _append(self, kept: Tensor, new: Tensor) -> Tensor:
        """Write new rows behind those that are filled, in the format of `kept`; return all, (B, G, S, D)."""
        kept.narrow(2, self.length, new.shape[2]).copy_(new)
        return kept.narrow(2, 0, self.length + new.shape[2])

    def _append_converted(self, kept: Tensor, new: Tensor, units: Tensor | None, buffer: Tensor) -> Tensor:
        """Do the same in fewer bits and return all in the format of `buffer`."""
        filled = buffer.narrow(2, 0, self.length + new.shape[2])
        if units is None:
            return filled.copy_(self._append(kept, new))
        unit = torch.linalg.vector_norm(new, math.inf, -1, keepdim=True).div_(INT8_LIMIT).clamp_(min=SMALLEST_UNIT)
        filled.copy_(self._append(kept, (new / unit).round_()))
        return filled.mul_(self._append(units, unit))

    def advance(self, positions: int) -> None:
        """Count the positions that every layer has now stored."""
        self.length += positions

    def clear(self) -> None:
        """Forget everything; the memory stays."""
        self.length = 0


class OnePositionCache(KeyValueCache):
    """A cache as seen by a pass over one position that is a number on the device.

    Every pass does the same operations on the same memory, whatever the position, so a GPU can record and repeat it.
    Attention reads the whole capacity and a mask hides what is not filled.

    Args:
        held: The cache; its memory is shared, its length is the caller's to keep.
    """

    def __init__(self, held: KeyValueCache) -> None:
        self.capacity, self.keys, self.values, self.length = held.capacity, held.keys, held.values, held.length
        device = held.keys[0].device
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(held.capacity, device=device)[None]

    def begin(self, positions: int) -> Tensor:
        """Return the position as an index, and hide what comes after it."""
        assert positions == 1
        self.visible = self._places <= self.position
        return self.position

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values (B, G, 1, D) at the position and return the whole memory."""
        self.keys[layer].index_copy_(2, self.position, keys)
        self.values[layer].index_copy_(2, self.position, values)
        return self.keys[layer], self.values[layer]

    def advance(self, positions: int) -> None:
        """Do nothing: who sets the position counts."""
