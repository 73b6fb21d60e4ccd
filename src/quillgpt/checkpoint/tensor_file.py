"""Writing a safetensors file tensor by tensor, so that memory never holds all of its content at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quillgpt.checkpoint.stored import DTYPES, HEADER_LENGTH_BYTES, METADATA

Read = Callable[[Tensor], Tensor]
"""Returns a tensor with the same shape and number format: its values from wherever they are, or without values."""

NamedTensors = Callable[[Read], Iterable[tuple[str, Tensor]]]
"""Yields the named tensors of a file, in any order; each is made from what `Read` returns when it is its turn."""

ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""The number formats as safetensors orders them: in a file, the last comes first."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_it_is(tensor: Tensor) -> Tensor:
    """Return a tensor."""
    return tensor


def without_values(tensor: Tensor) -> Tensor:
    """Return an empty tensor on the device `meta`, which takes no memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def all_of(tensors: Mapping[str, Tensor]) -> NamedTensors:
    """Return the content of a file that holds some tensors."""
    return lambda read: ((name, read(tensor)) for name, tensor in tensors.items())


class TensorFile:
    """A safetensors file that is about to be written, byte for byte as `safetensors.torch.save_file` writes it.

    That function is not used: it takes all tensors at once.

    Args:
        tensors: The content.
        read: Returns the values of a tensor.
    """

    def __init__(self, tensors: NamedTensors, read: Read = as_it_is) -> None:
        self._sizes = dict(tensors(without_values))
        self._rest = iter(tensors(read))

    @property
    def content_bytes(self) -> int:
        """The bytes that the tensors take."""
        return sum(tensor.nbytes for tensor in self._sizes.values())

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            OSError: The system refuses to write.
        """
        header, places = _header(self._sizes)
        with path.open("wb") as file:
            file.write(header)
            for name, tensor in self._rest:
                file.seek(len(header) + places[name])
                file.write(_bytes_of(tensor))

    def skip(self) -> None:
        """Read what is not written, for another rank that writes it: what ranks hold in parts, all gather together."""
        for _ in self._rest:
            pass


def _header(sizes: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return the beginning of a file, and the offset of each tensor from its end."""
    entries: dict[str, object] = {METADATA: {"format": "pt"}}
    places, end = {}, 0
    for name in sorted(sizes, key=lambda name: (-ORDER.index(NAMES[sizes[name].dtype]), name)):
        tensor = sizes[name]
        places[name], end = end, end + tensor.nbytes
        shape, offsets = list(tensor.shape), [places[name], end]
        entries[name] = {"dtype": NAMES[tensor.dtype], "shape": shape, "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_LENGTH_BYTES)  # so that the tensors begin at a multiple of 8
    return len(text).to_bytes(HEADER_LENGTH_BYTES, "little") + text, places


def _bytes_of(tensor: Tensor) -> memoryview:
    array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)  # type: ignore[arg-type]  # an array is a buffer, which Python 3.11 has no type for
