"""Tensors in a safetensors file: the header is checked first, and each tensor is read when it is needed."""

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
"""Smaller tensors are copied: they share pages with others, and each mapping costs a file descriptor."""

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
"""Number formats by safetensors' names."""


class TensorRecord(Record):
    """The entry of one tensor in a header."""

    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Annotated[list[Count], Len(0, MOST_DIMENSIONS)]
    data_offsets: Annotated[list[Count], Len(2, 2)]


@dataclass(frozen=True)
class StoredFile:
    """A safetensors file that stays open, so the same file is read even if its path is replaced.

    Attributes:
        path: The path at which it was opened.
        tensors: The entries of its header, by name.
        data: The offset of the first tensor.
    """

    path: Path
    tensors: Mapping[str, TensorRecord]
    data: int
    _stream: FileIO = field(repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def empty(self, name: str) -> Tensor:
        """Return a tensor with the shape and type of a stored one, but without content (on the device `meta`)."""
        record = self.tensors[name]
        return torch.empty(record.shape, dtype=DTYPES[record.dtype], device="meta")

    def read(self, name: str) -> Tensor:
        """Return a tensor on the CPU. Large ones are mapped from the file, so that memory holds only the pages in use.

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
        if size >= SMALLEST_MAPPED_BYTES and first % dtype.itemsize == 0:  # files of other programs may not be aligned
            content = self._mapped(first - before, before + size)
        if content is None:
            content, before = self._copied(first, size), 0
        return torch.frombuffer(content, dtype=dtype, offset=before, count=math.prod(record.shape)).view(record.shape)

    def read_row(self, name: str, row: int) -> Tensor:
        """Return a copy of one row of a matrix, so that its neighbours do not stay in memory."""
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
        """Map bytes of the file; None if the process has no file descriptor left, of which each mapping costs one."""
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
    """Open a safetensors file and check that its header fits its size.

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
    file_size = stream.seek(0, 2)
    stream.seek(0)
    check_is_no_pointer(stream.read(len(GIT_LFS_POINTER)), path, CheckpointError)
    stream.seek(0)
    length = int.from_bytes(stream.read(HEADER_LENGTH_BYTES), "little")
    data = HEADER_LENGTH_BYTES + length
    if file_size < HEADER_LENGTH_BYTES or length > LARGEST_HEADER_BYTES or data > file_size:
        raise CheckpointError(f"{path} is damaged: it does not begin as a safetensors file does; {MEND}")
    header = parse_json(stream.read(length), CheckpointError, path, mend=MEND)
    header = check_record(header, dict[str, object], CheckpointError, path, mend=MEND)
    header.pop(METADATA, None)
    tensors = check_record(header, dict[str, TensorRecord], CheckpointError, path, mend=MEND)
    end = 0
    for name, record in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        needed = math.prod(record.shape) * DTYPES[record.dtype].itemsize
        if record.data_offsets != [end, end + needed] or math.prod(size or 1 for size in record.shape) >= 1 << 48:
            raise CheckpointError(
                f"{path} is damaged: {shorten(name)} has the shape {shorten(record.shape)} in {record.dtype}, which "
                f"does not fit its place, bytes {record.data_offsets}; {MEND}"
            )
        end += needed
    if data + end != file_size:
        raise CheckpointError(f"{path} is damaged: its tensors take {end:,} bytes, it has {file_size - data:,}; {MEND}")
    return tensors, data
