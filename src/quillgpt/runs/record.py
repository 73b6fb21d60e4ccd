"""metrics.jsonl as it grows: read on from where it was read before, whatever becomes of the file meanwhile."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from quillgpt.plots.record import Row
from quillgpt.runs.small_files import is_finite, number

LONGEST_LINE: Final = 64 << 10
MOST_BYTES: Final = 4 << 20
"""Bytes that are read at once, so that a record of any length holds up nobody."""

REMEMBERED_BYTES: Final = 256
"""Bytes before the place up to which a record was read; if they have changed, it is another record."""


class Record:
    """The record of a run.

    Args:
        path: The file, which need not be there yet.
        only: Leave out lines without these bytes unread, where only some kind of row matters.

    Attributes:
        damaged: The number of lines so far that are no rows.
        is_behind: Whether the file has more already than was read at once.
    """

    def __init__(self, path: Path, only: bytes = b"") -> None:
        self._path = path
        self._only = only
        self._forget()

    def _forget(self) -> None:
        self._identity: tuple[int, int] | None = None
        self._position = 0
        self._before = b""
        self._skipping = False
        self.damaged = 0
        self.is_behind = False

    def read(self, most: int = MOST_BYTES) -> tuple[bool, list[Row]]:
        """Return whether the record begins anew, so that earlier rows are void, and the rows that are new.

        It begins anew where the file was replaced, as a resumed run does, or has become shorter. A line that does not
        end yet is read when it does. A file that is gone has no new rows.
        """
        try:
            if not is_readable(self._path):
                return False, []
            with self._path.open("rb") as file:
                return self._read_on(file, most)
        except OSError:
            self.is_behind = False
            return False, []

    def _read_on(self, file: BinaryIO, most: int) -> tuple[bool, list[Row]]:
        info = os.fstat(file.fileno())
        identity = (info.st_dev, info.st_ino)
        anew = self._identity is not None and not (identity == self._identity and self._goes_on(file))
        if anew:
            self._forget()
        self._identity = identity
        file.seek(self._position)
        content = file.read(most)
        end = content.rfind(b"\n") + 1
        is_endless = not end and len(content) > LONGEST_LINE
        taken = content if is_endless else content[:end]
        rows = [] if is_endless else self._rows(taken.split(b"\n")[:-1])
        self._skipping = is_endless or (self._skipping and not end)
        self._position += len(taken)
        self._before = (self._before + taken)[-REMEMBERED_BYTES:]
        self.is_behind = self._position < info.st_size and len(content) == most
        return anew, rows

    def _goes_on(self, file: BinaryIO) -> bool:
        file.seek(self._position - len(self._before))
        return file.read(len(self._before)) == self._before

    def _rows(self, lines: list[bytes]) -> list[Row]:
        if self._skipping and lines:  # the end of a line that is far too long
            self.damaged += 1
            lines = lines[1:]
        rows = []
        for line in lines:
            if self._only not in line or not line.strip():
                continue
            row = parse(line)
            if row is None:
                self.damaged += 1
            else:
                rows.append(row)
        return rows


def is_readable(path: Path) -> bool:
    """Whether a path is a file, or a link to one; a pipe could be waited for without end.

    Raises:
        OSError: There is nothing.
    """
    return stat.S_ISREG(path.stat().st_mode)


def last_rows(path: Path, most: int = LONGEST_LINE) -> list[Row]:
    """Return the rows in the last bytes of a record."""
    try:
        if not is_readable(path):
            return []
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            lines = file.read(most).split(b"\n")[:-1]
    except OSError:
        return []
    return [row for line in lines if (row := parse(line)) is not None]


def parse(line: bytes) -> Row | None:
    """Return a row with what can be shown of it: finite numbers, and texts; None: the line is damaged."""
    if len(line) > LONGEST_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    clean = {name: value if isinstance(value, str) or is_finite(value) else None for name, value in row.items()}
    return clean if number(clean, "iter") is not None else None
