"""Tensors in safetensors files, read one by one when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quillgpt.errors import CheckpointError, shorten
from quillgpt.files import path_inside
from quillgpt.records import Record, read_record

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER_LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredWeights(Mapping[str, Tensor]):
    """The tensors of a folder by name.

    A tensor is mapped from its file anew each time it is asked for, so that memory holds what is used and no more.

    Attributes:
        places: In which file each tensor is, and under which name.
    """

    places: Mapping[str, tuple[Path, str]]

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, on the CPU.

        Raises:
            CheckpointError: Its file has been changed or removed since it was opened.
        """
        file, stored_name = self.places[name]
        with _opened(file) as tensors:
            tensor: Tensor = tensors.get_tensor(stored_name)
        return tensor

    def rows(self, name: str) -> Callable[[int], Tensor]:
        """Return what reads single rows of a tensor.

        Mapping the file would keep the pages around each row in memory, 64 KiB for a row of a few. The file stays open,
        so it may be replaced meanwhile.

        Raises:
            CheckpointError: The file has been changed or removed since it was opened.
        """
        file, stored_name = self.places[name]
        dtype, row_bytes = (example := self[name][0]).dtype, example.nbytes
        stream = file.open("rb")
        header_bytes = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
        table = (
            HEADER_LENGTH_BYTES + header_bytes + json.loads(stream.read(header_bytes))[stored_name]["data_offsets"][0]
        )

        def read(row: int) -> Tensor:
            stream.seek(table + row * row_bytes)
            return torch.frombuffer(bytearray(stream.read(row_bytes)), dtype=dtype)

        return read

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self.places)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.places)


def find_tensors(folder: Path) -> dict[str, tuple[Path, Tensor]]:
    """Return file and size (a tensor on the device `meta`) of all tensors in model.safetensors, or in its parts.

    Raises:
        CheckpointError: There are none, or a file is damaged.
    """
    found: dict[str, tuple[Path, Tensor]] = {}
    for file in _files(folder):
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; Quill reads weights from safetensors files only")
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                found[name] = file, torch.empty(tensors.get_slice(name).get_shape(), device="meta")
    return found


def _files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    index = read_record(folder / INDEX, Index, CheckpointError, mend="copy or download the model again")
    return [_part(folder, name) for name in sorted(set(index.weight_map.values()))]


class Index(Record):
    """Which file holds which tensor, as the hub's libraries write it beside weights in several files."""

    model_config = ConfigDict(extra="ignore")

    weight_map: dict[str, str]


def _part(folder: Path, name: str) -> Path:
    file = path_inside(folder, name)
    if file is None:
        raise CheckpointError(
            f"{folder / INDEX} lists {shorten(name)}, which is outside the model's folder; do not trust it"
        )
    return file


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from None
