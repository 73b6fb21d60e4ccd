"""Verifies token files by reading them completely; the result is cached until the file changes."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from quillgpt.console import progress, say
from quillgpt.errors import DataError, UserError
from quillgpt.files import quill_home, write_json
from quillgpt.ownership import remove_own
from quillgpt.records import Record, read_record

CHUNK_BYTES = 1 << 20
SETTLED_SECONDS = 2.0
"""A file that changed more recently may change again without new times."""

ANNOUNCED_BYTES = 500_000_000
"""Reading a larger file takes seconds. It is announced, and done once."""


class FileState(Record):
    """Size and times of a file, which change with its content unless the disk is damaged."""

    bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Return the state of a file from its `stat`."""
        return cls(
            bytes=status.st_size,
            modified_ns=status.st_mtime_ns,
            changed_ns=status.st_ctime_ns,
            inode=status.st_ino,
        )

    @property
    def is_settled(self) -> bool:
        """Whether every later change of the file would change this state."""
        return max(self.modified_ns, self.changed_ns) < time.time_ns() - SETTLED_SECONDS * 1e9


class TokenFileContent(Record):
    """The hash of a token file, its largest id, and the position of the first token with that id."""

    state: FileState
    sha256: str
    largest_id: int
    place: int


def content_of(path: Path, dtype: str, *, anew: bool = False) -> TokenFileContent:
    """Return the content of a token file, from the cache if the file has not changed since it was read.

    Args:
        path: The file, which has at least one token.
        dtype: The type of its ids.
        anew: Read the file in any case, since a disk may change it without a trace; but not one so large that reading
            is announced.

    Raises:
        DataError: The file changes while it is read.
    """
    note = quill_home() / "verified" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    if not anew or path.stat().st_size >= ANNOUNCED_BYTES:
        with suppress(UserError):  # no cached result, or a damaged one
            known = read_record(note, TokenFileContent, UserError, mend="")
            if known.state == FileState.of(path.stat()):
                return known
    content = _read(path, np.dtype(dtype).newbyteorder("<"))
    with suppress(OSError):  # then the file is read again next time
        if content.state.is_settled:
            write_json(note, content.model_dump())
        else:
            remove_own(note)
    return content


def _read(path: Path, dtype: np.dtype[np.unsignedinteger]) -> TokenFileContent:
    digest = hashlib.sha256()
    largest_id, place, taken = -1, 0, 0
    with path.open("rb") as file:
        state = FileState.of(os.fstat(file.fileno()))
        if state.bytes >= ANNOUNCED_BYTES:
            say(f"Reading {path} ({decimal(state.bytes)}) to verify it; the result is kept")
        with progress(f"Verifying {path.name}", state.bytes, as_bytes=True) as advance:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                ids: NDArray[np.unsignedinteger] = np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)
                if ids.size and int(ids.max()) > largest_id:
                    largest_id, place = int(ids.max()), taken + int(ids.argmax())
                taken += len(ids)
                advance(len(chunk))
        if FileState.of(os.fstat(file.fileno())) != state:
            raise DataError(f"{path} changes while it is read; wait until whatever writes it has finished")
    return TokenFileContent(state=state, sha256=digest.hexdigest(), largest_id=largest_id, place=place)
