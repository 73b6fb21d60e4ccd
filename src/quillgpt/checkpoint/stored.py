"""Tensors in a safetensors file: the header is checked before any is made, and each is read when it is asked for."""

from __future__ import annotations

import errno
import hashlib
import math
import mmap
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Annotated, Literal

import torch
from annotated_types import Len
from pydantic import Field
from torch import Tensor

from quillgpt.errors import GIT_LFS_POINTER, CheckpointError, check_is_no_pointer, shorten
from quillgpt.records import Record, check_record, parse_json

HEADER_LENGTH_BYTES = 8
LARGEST_HEADER_BYTES = 32 << 20
MOST_DIMENSIONS = 8
SMALLEST_MAPPED_BYTES = 1 << 16
"""Smaller tensors are copied: they share their pages with others, and processes may have few files open."""

METADATA = "__metadata__"
MEND = "copy or download it again"

Count = Annotated[int, Field(ge=0, lt=1 << 48)]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Number formats by the names that safetensors gives them."""


class TensorRecord(Record):
    """What a header says of one tensor."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Annotated[list[Count], Len(0, MOST_DIMENSIONS)]
    data_offsets: Annotated[list[Count], Len(2, 2)]


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file that stays open: what was opened is read, even if another file has its name meanwhile.

    Attributes:
        path: Where it was.
        tensors: What it holds, by name.
        data: Where its tensors begin.
    """

    path: Path
    tensors: Mapping[str, TensorRecord]
    data: int
    _stream: FileIO = field(repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def empty(self, name: str) -> Tensor:
        """Return a tensor of the size and the type of a stored one, without content (on the device `meta`)."""
        record = self.tensors[name]
        return torch.empty(record.shape, dtype=DTYPES[record.dtype], device="meta")

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU, a large one mapped from the file anew, so that memory holds only what is used.

        Raises:
            CheckpointError: The file has become shorter since it was opened.
        """
        record = self.tensors[name]
        dtype, (begin, end) = DTYPES[record.dtype], record.data_offsets
        if begin == end:
            return torch.empty(record.shape, dtype=dtype)
        first, size = self.data + begin, end - begin
        before = first % mmap.ALLOCATIONGRANULARITY
        content: mmap.mmap | bytearray | None = None
        if size >= SMALLEST_MAPPED_BYTES and first % dtype.itemsize == 0:  # a foreign file may have it otherwise
            content = self._mapped(first - before, before + size)
        if content is None:
            content, before = self._copied(first, size), 0
        return torch.frombuffer(content, dtype=dtype, offset=before, count=math.prod(record.shape)).view(record.shape)

    def read_row(self, name: str, row: int) -> Tensor:
        """Return one row of a matrix; of its neighbours, which share pages of memory with it, nothing is kept."""
        record = self.tensors[name]
        dtype = DTYPES[record.dtype]
        size = record.shape[1] * dtype.itemsize
        return torch.frombuffer(self._copied(self.data + record.data_offsets[0] + row * size, size), dtype=dtype)

    def sha256(self) -> str:
        """Return the hexadecimal SHA-256 of the file."""
        with self._lock:
            self._stream.seek(0)
            return hashlib.file_digest(self._stream, "sha256").hexdigest()

    def _mapped(self, first: int, size: int) -> mmap.mmap | None:
        """Map some bytes of the file; None where the process has no more file descriptors, of which each costs one."""
        try:
            return mmap.mmap(self._stream.fileno(), size, access=mmap.ACCESS_COPY, offset=first)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return None
            raise self._changed(str(error)) from None
        except ValueError as error:  # beyond its end
            raise self._changed(str(error)) from None

    def _copied(self, first: int, size: int) -> bytearray:
        content = bytearray(size)
        rest = memoryview(content)
        with self._lock:
            self._stream.seek(first)
            while rest:
                count = self._stream.readinto(rest)
                if not count:
                    raise self._changed("it is shorter")
                rest = rest[count:]
        return content

    def _changed(self, how: str) -> CheckpointError:
        return CheckpointError(f"{self.path} has been changed since it was opened ({how}); {MEND}")


def open_stored(path: Path) -> StoredFile:
    """Open a safetensors file, after checking that its header fits it.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        stream = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; Quill reads weights from safetensors files only") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {MEND}") from None
    try:
        tensors, data = _read_header(path, stream)
    except BaseException:
        stream.close()
        raise
    file = StoredFile(path, tensors, data, stream)
    weakref.finalize(file, stream.close)
    return file


def _read_header(path: Path, stream: FileIO) -> tuple[dict[str, TensorRecord], int]:
    size = stream.seek(0, 2)
    stream.seek(0)
    check_is_no_pointer(stream.read(len(GIT_LFS_POINTER)), path, CheckpointError)
    stream.seek(0)
    length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
    data = HEADER_LENGTH_BYTES + length
    if size < HEADER_LENGTH_BYTES or length > LARGEST_HEADER_BYTES or data > size:
        raise CheckpointError(f"{path} is damaged: it does not begin as a safetensors file does; {MEND}")
    header = parse_json(stream.read(length), CheckpointError, path, mend=MEND)
    header = check_record(header, dict[str, object], CheckpointError, path, mend=MEND)
    header.pop(METADATA, None)
    tensors = check_record(header, dict[str, TensorRecord], CheckpointError, path, mend=MEND)
    end = 0
    for name, record in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        needed = math.prod(record.shape) * DTYPES[record.dtype].itemsize
        if record.data_offsets != [end, end + needed] or math.prod(each or 1 for each in record.shape) >= 1 << 48:
            raise CheckpointError(
                f"{path} is damaged: {shorten(name)} has the shape {shorten(record.shape)} in {record.dtype}, which "
                f"does not fit its place, bytes {record.data_offsets}; {MEND}"
            )
        end += needed
    if data + end != size:
        raise CheckpointError(f"{path} is damaged: its tensors take {end:,} bytes, it has {size - data:,}; {MEND}")
    return tensors, data
