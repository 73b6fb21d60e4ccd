"""How documents are taken out of a file, and what was found in it."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quillgpt.config.format_rules import BY_NAME, FormatRules
from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import read_pieces
from quillgpt.text.formats.limits import MOST_BYTES_AT_ONCE

CHUNK_CHARACTERS = 1 << 20


class _Fields(Protocol):
    """The settings, which dataset.json has under the same names."""

    @property
    def read_as(self) -> str | None: ...
    @property
    def me(self) -> str | None: ...
    @property
    def anonymise(self) -> bool: ...
    @property
    def drop_quotes(self) -> bool: ...
    @property
    def drop_signatures(self) -> bool: ...


@dataclass(frozen=True)
class Wishes:
    """What the user wants of files that are no plain text.

    Attributes:
        read_as: The formats of files, if their names and contents do not tell.
        me: The name of the user in chats, whose messages begin with `Me: `.
        anonymise: Replace names, numbers and addresses in chats and mails.
        drop_quotes: Leave out what mails quote.
        drop_signatures: Leave out the signatures of mails.
    """

    read_as: FormatRules = BY_NAME
    me: str | None = None
    anonymise: bool = False
    drop_quotes: bool = False
    drop_signatures: bool = False

    @classmethod
    def of(cls, fields: _Fields) -> Wishes:
        """Return the wishes in settings, or in a dataset.json."""
        return cls(
            FormatRules.parse(fields.read_as), fields.me, fields.anonymise, fields.drop_quotes, fields.drop_signatures
        )


PLAIN = Wishes()
"""Everything is read, by the names and contents of files."""


@dataclass
class Tally:
    """What was found in a file.

    Attributes:
        read: Number of things that became text, by their name in the plural.
        dropped: Number of things that were left out.
        remarks: What else the user should know.
    """

    read: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Opened:
    """A file that documents are taken out of.

    Attributes:
        path: The file.
        name: Its name in messages.
        format: The name of its format.
        title: What its format is called.
        encoding: Its encoding; None for a format whose bytes are not text, or which names encodings itself.
        column: The column that holds the text of a table.
        wishes: What the user wants.
        tally: What was found so far.
    """

    path: Path
    name: str
    format: str
    title: str
    encoding: str | None = None
    column: str | None = None
    wishes: Wishes = PLAIN
    tally: Tally = field(default_factory=Tally)
    _time_limit: float | None = None

    def text(self) -> str:
        """Return the whole text, decoded.

        Raises:
            DataError: It is too large, or its bytes are not text.
        """
        assert self.encoding is not None
        self.check_size(MOST_BYTES_AT_ONCE)
        return "".join(read_pieces(self.path, self.encoding, CHUNK_CHARACTERS, name=self.name))

    def check_size(self, most: int) -> None:
        """Check that the file has at most so many bytes.

        Raises:
            DataError: It has more.
        """
        size = self.path.stat().st_size
        if size > most:
            raise DataError(
                f"{self.name} has {size:,} bytes, and {self.title} of at most {most:,} is read; divide it, or export "
                "its text"
            )

    def limit_time(self, seconds: float) -> None:
        """Let the system end this process after so much more of a processor's time, where it can do that."""
        self._time_limit = time.process_time() + seconds
        self.more_time(0)

    def more_time(self, seconds: float) -> None:
        """Extend the time, if it is limited: for each page and each message."""
        if self._time_limit is None:
            return
        self._time_limit += seconds
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            _, most = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(self._time_limit), most))

    def damaged(self, reason: object) -> DataError:
        """Return the error for a file that is not in its format."""
        words = " ".join(str(reason).split()).rstrip(".")[:200]
        return DataError(
            f"{self.name} is damaged or not {self.title} ({words}); get it again, or save it again with the program "
            "that made it"
        )

    def refused(self, what: str) -> DataError:
        """Return the error for a file that is not made to be read; `what` follows its name."""
        return DataError(f"{self.name} {what}; leave it out, or export its text and give that")
