"""The weights of a page: rounded to 16 or 8 bits, in the parts and the order in which page/unpack.js reads them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from quillgpt.checkpoint import LoadedModel

NumberType = Literal["f32", "f16", "q8_0"]

GROUP = 32
"""Columns of a matrix are padded with zeros to a multiple of this; with q8_0 so many share a scale."""

TABLES = ("token_embedding.weight", "head.weight")
"""Tensors with a row for each token."""

POSITIONS = "position_embedding.weight"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a page, before it is rounded.

    Attributes:
        name: Its name in the model.
        type: The number type in which it is packed.
        values: The values (rows, columns) in float32; a vector is one row.
    """

    name: str
    type: NumberType
    values: NDArray[np.float32]

    def about(self) -> dict[str, object]:
        """Return what the page has to know before it reads the bytes."""
        rows, columns = self.values.shape
        return {"name": self.name, "type": self.type, "rows": rows, "columns": columns}

    def parts(self) -> list[bytes]:
        """Return the bytes; those of 16-bit numbers in two parts, because gzip compresses the upper ones only."""
        if self.type == "f32":
            return [self.values.astype("<f4").tobytes()]
        if self.type == "f16":
            return _halves(self.values)
        eights, scales = quantize(self.values)
        return [eights.tobytes(), *_halves(scales)]


def tensors_of(loaded: LoadedModel, number_type: str) -> Iterable[Tensor]:
    """Yield the tensors of a model: matrices in the number type, vectors and positions in float32.

    Rows of embedding and head without a token are left out.
    """
    tokens = min(loaded.tokenizer.vocab_size, loaded.config.vocab_size)
    for name, tensor in loaded.tensors():
        values = tensor.numpy() if tensor.ndim == 2 else tensor.numpy()[None, :]
        if name in TABLES:
            values = values[:tokens]
        missing = -values.shape[1] % GROUP if tensor.ndim == 2 else 0
        values = np.pad(values, ((0, 0), (0, missing)))
        in_full = tensor.ndim == 1 or name == POSITIONS
        yield Tensor(name, "f32" if in_full or number_type == "f32" else _matrix_type(number_type), values)


def _matrix_type(number_type: str) -> NumberType:
    return "q8_0" if number_type == "q8_0" else "f16"


def quantize(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each group of 32 columns to 8 bits, as GGUF's q8_0 does.

    Args:
        values: (rows, columns), columns a multiple of 32.

    Returns:
        Whole numbers from -127 to 127 (rows, columns), and the scales (rows, columns / 32), which half precision holds.
    """
    groups = values.reshape(len(values), -1, GROUP)
    scales = (np.abs(groups).max(-1) / 127).astype(np.float16).astype(np.float32)
    steps = np.divide(groups, scales[..., None], out=np.zeros_like(groups), where=scales[..., None] > 0)
    return np.clip(np.rint(steps), -127, 127).astype(np.int8).reshape(values.shape), scales


def rounded(values: NDArray[np.float32], number_type: NumberType) -> NDArray[np.float32]:
    """Return the values that a page computes with."""
    if number_type == "f16":
        return values.astype(np.float16).astype(np.float32)
    if number_type == "q8_0":
        eights, scales = quantize(values)
        return eights.astype(np.float32) * np.repeat(scales, GROUP, axis=1)
    return values


def largest_half(loaded: LoadedModel) -> tuple[str, float] | None:
    """Return the name and size of a weight that half precision cannot hold, or None."""
    limit = float(torch.finfo(torch.float16).max)
    for name, tensor in loaded.tensors():
        if (largest := float(tensor.abs().max())) > limit:
            return name, largest
    return None


def _halves(values: NDArray[np.float32]) -> list[bytes]:
    halves = values.astype("<f2").view(np.uint8).reshape(-1, 2)
    return [halves[:, 0].tobytes(), halves[:, 1].tobytes()]
