"""Keys and values of the positions already seen, so that each new token costs one position.

Shapes: B batch, G key and value heads, S key position, T new position, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quillgpt.model.shape import ModelShape


class KeyValueCache:
    """Preallocated keys and values of every layer.

    Attributes:
        length: Positions filled.
        capacity: Positions that fit.
        visible: Which keys the query of this pass may see, bool (1, S); None where causality alone decides.
    """

    visible: Tensor | None = None

    def __init__(
        self,
        shape: ModelShape,
        batch_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        capacity: int | None = None,
    ) -> None:
        self.capacity = shape.block_size if capacity is None else capacity
        size = (shape.n_layer, batch_size, shape.n_kv_head, self.capacity, shape.head_dim)
        # Zeros, because a masked key that is not a number would still spoil the sum over values.
        self.keys = torch.zeros(size, device=device, dtype=dtype).unbind()
        self.values = torch.zeros(size, device=device, dtype=dtype).unbind()
        self.length = 0

    def begin(self, positions: int) -> slice | Tensor:
        """Return where the next positions are, as an index of a table of positions."""
        return slice(self.length, self.length + positions)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, D) and return all so far, (B, G, S, D).

        `length` stays as it is until `advance`, because every layer of one pass writes at the same positions.
        """
        count = keys.shape[2]
        all_keys, all_values = self.keys[layer], self.values[layer]
        all_keys.narrow(2, self.length, count).copy_(keys)
        all_values.narrow(2, self.length, count).copy_(values)
        return all_keys.narrow(2, 0, self.length + count), all_values.narrow(2, 0, self.length + count)

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
