"""The key-value cache: keys and values of earlier positions, so that a new token costs one position.

Shapes: B batch, G key and value heads, S key position, T new position, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quillgpt.attention import SOFTMAX
from quillgpt.model.gpt import GPTConfig

INT8_LIMIT = 127
SMALLEST_UNIT = 1e-30
"""Lower bound of a row's unit, so that a row of zeros is not divided by 0."""


class KeyValueCache:
    """Preallocated keys and values of every layer.

    They may be cached in fewer bits than the model computes in: bfloat16, or 8 bits with a unit for each head and
    position, in which the largest entry is 127. Where PyTorch's attention is fast in bfloat16, it reads bfloat16 as it
    is. Otherwise a layer is converted as a whole into a buffer that all layers share, which takes less time than
    reading float32 from memory.

    Args:
        config: The model's configuration.
        batch_size: Number of sequences.
        device: Device of the cache.
        dtype: Number format of the cache: that of attention, bfloat16, or int8.
        capacity: Number of positions; None: the model's context.

    Attributes:
        length: Number of positions filled.
        capacity: Number of positions that fit.
        visible: The keys that each query of this pass may see, bool, (1, S) or (B, 1, T, S); None: up to itself.
        units: What keys and values of 8 bits are multiplied by, (2, layers, B, G, S, 1); None for other formats.
        attention_dtype: The number format of `extend`'s results; None: that of what is given to it. Other kernels than
            softmax need float32.
    """

    visible: Tensor | None = None
    attention_dtype: torch.dtype | None = None

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
        # Zeros, because a masked value that is not a number would still spoil the weighted sum.
        self.keys = torch.zeros(size, device=device, dtype=dtype).unbind()
        self.values = torch.zeros(size, device=device, dtype=dtype).unbind()
        self.units = torch.ones(2, *size[:-1], 1, device=device) if dtype == torch.int8 else None
        self._buffers: tuple[Tensor, Tensor] | None = None
        if dtype == torch.bfloat16 and config.kernel == SOFTMAX and attends_fast_in_bfloat16():
            self.attention_dtype = dtype
        self.length = 0

    def begin(self, positions: int) -> slice | Tensor:
        """Return the next positions, as an index into a table of positions."""
        return slice(self.length, self.length + positions)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new keys and values (B, G, T, D), and return all of its keys and values, (B, G, S, D).

        The result is in the number format in which attention is to compute, and valid until the next layer is extended.
        `length` changes only with `advance`, because all layers of one pass write at the same positions.
        """
        if self.attention_dtype is not None or keys.dtype == self.keys[layer].dtype:
            return self._append(self.keys[layer], keys), self._append(self.values[layer], values)
        if self._buffers is None:
            size = self.keys[layer].shape
            self._buffers = keys.new_empty(size), keys.new_empty(size)
        units = (None, None) if self.units is None else self.units[:, layer]
        return (
            self._append_converted(self.keys[layer], keys, units[0], self._buffers[0]),
            self._append_converted(self.values[layer], values, units[1], self._buffers[1]),
        )

    def _append(self, kept: Tensor, new: Tensor) -> Tensor:
        """Append new rows to those that are filled, in the format of `kept`, and return all, (B, G, S, D)."""
        kept.narrow(2, self.length, new.shape[2]).copy_(new)
        return kept.narrow(2, 0, self.length + new.shape[2])

    def _append_converted(self, kept: Tensor, new: Tensor, units: Tensor | None, buffer: Tensor) -> Tensor:
        """Append new rows in fewer bits, and return all in the format of `buffer`."""
        filled = buffer.narrow(2, 0, self.length + new.shape[2])
        if units is None:
            return filled.copy_(self._append(kept, new))
        unit = torch.linalg.vector_norm(new, math.inf, -1, keepdim=True).div_(INT8_LIMIT).clamp_(min=SMALLEST_UNIT)
        filled.copy_(self._append(kept, (new / unit).round_()))
        return filled.mul_(self._append(units, unit))

    def advance(self, positions: int) -> None:
        """Count the positions that all layers have now stored."""
        self.length += positions

    def clear(self) -> None:
        """Empty the cache; its memory stays allocated."""
        self.length = 0

    def copy_of_filled(self) -> list[Tensor]:
        """Return what is filled, as tensors of its own."""
        return [tensor.narrow(tensor.ndim - 2, 0, self.length).clone() for tensor in self._tensors()]

    def fill_with(self, copies: Sequence[Tensor]) -> None:
        """Begin with what `copy_of_filled` of such a cache has returned; this one may have another capacity."""
        for tensor, copied in zip(self._tensors(), copies, strict=True):
            self.length = copied.shape[-2]
            tensor.narrow(tensor.ndim - 2, 0, self.length).copy_(copied)

    def _tensors(self) -> list[Tensor]:
        """Return all tensors, each with positions as its last dimension but one."""
        return [*self.keys, *self.values, *([] if self.units is None else [self.units])]


def attends_fast_in_bfloat16() -> bool:
    """Whether PyTorch's softmax attention is faster in bfloat16 than in float32 on this CPU.

    It multiplies with MKL, which is fast where the CPU is Intel's and has matrix instructions (AMX), and six times
    slower elsewhere. This is a rule and no measurement, so that a seed gives the same sample each time.
    """
    return torch.cpu._is_amx_tile_supported()


class OnePositionCache(KeyValueCache):
    """A view of a cache for passes over one position, whose number is a tensor on the device.

    Every pass runs the same operations on the same memory, whatever the position, so it can be captured as a CUDA
    graph. Attention reads the whole capacity, and a mask hides the positions that are not filled.

    Args:
        held: The cache, whose memory is shared; the caller counts its positions.
    """

    def __init__(self, held: KeyValueCache) -> None:
        self.capacity, self.keys, self.values, self.length = held.capacity, held.keys, held.values, held.length
        device = held.keys[0].device
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = torch.arange(held.capacity, device=device)[None]

    def begin(self, positions: int) -> Tensor:
        """Return the position as an index, and hide all later ones."""
        assert positions == 1
        self.visible = self._places <= self.position
        return self.position

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's keys and values (B, G, 1, D) at the position, and return those of the whole capacity."""
        self.keys[layer].index_copy_(2, self.position, keys)
        self.values[layer].index_copy_(2, self.position, values)
        return self.keys[layer], self.values[layer]

    def advance(self, positions: int) -> None:
        """Do nothing: the caller sets the position."""
