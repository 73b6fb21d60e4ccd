"""Documents: where they are, and how their text is read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

from quillgpt.config.encoding_rules import DETECTED, EncodingRules
from quillgpt.errors import DataError
from quillgpt.files import sha256_of
from quillgpt.text.encodings.detection import Reading, look_at, read_pieces

SEPARATOR = "\0"
"""Ends every document in a file that holds many; no text has this character."""


class Mark(Enum):
    """A mark between the pieces of text in a stream."""

    DOCUMENT_END = "document end"


Piece = str | Mark


@dataclass(frozen=True)
class FileRules:
    """How the user wants files to be found and read.

    Attributes:
        encoding: Their encodings.
        skip_unreadable: Leave out files that cannot be read.
        follow_links: Follow links that lead out of a folder, too.
    """

    encoding: EncodingRules = DETECTED
    skip_unreadable: bool = False
    follow_links: bool = False


PLAINLY = FileRules()
"""Detect the encodings, refuse unreadable files, and stay inside of folders."""


@dataclass(frozen=True)
class Source:
    """A file on this machine, and where it came from.

    Attributes:
        name: Its name in messages.
        location: Its place in dataset.json: an address, an absolute path, `-`, or the name of a built-in corpus.
        path: Where it can be read now.
        holds_many: Whether Quill wrote it, with many documents in UTF-8 that end with `SEPARATOR`. Any other file is
            one document.
        recorded_sha256: Its hash, if it is known already.
    """

    name: str
    location: str
    path: Path
    holds_many: bool = False
    recorded_sha256: str | None = None

    @classmethod
    def from_file(cls, path: Path) -> Source:
        """Return the source of a file.

        Raises:
            DataError: Its path is not UTF-8, so it cannot be recorded.
        """
        location = str(path.resolve())
        try:
            location.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the path {location} is not UTF-8, and cannot be recorded; rename it") from error
        return cls(str(path), location, path)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes."""
        return self.recorded_sha256 or sha256_of(self.path)

    def sha256_if_readable(self) -> str | None:
        """Return the hash, or None for a file that cannot be opened."""
        try:
            return self.sha256
        except OSError:
            return None

    def look_at(self, encoding: str | None = None) -> Reading:
        """Read the whole file, and return its encoding and what is unusual in it.

        Args:
            encoding: Its encoding, if the user gave one.

        Raises:
            DataError: It is empty, binary, or in an unknown encoding.
        """
        return Reading("utf-8") if self.holds_many else look_at(self.path, name=self.name, encoding=encoding)

    def pieces(self, encoding: str, characters: int) -> Iterator[Piece]:
        """Yield the text in pieces of at most `characters` characters, and a mark after each document.

        Raises:
            DataError: The bytes are not text in this encoding.
        """
        if not self.holds_many:
            yield from read_pieces(self.path, encoding, characters, name=self.name)
            yield Mark.DOCUMENT_END
            return
        with self.path.open("r", encoding="utf-8", newline="") as file:
            while block := file.read(characters):
                first, *others = block.split(SEPARATOR)
                if first:
                    yield first
                for other in others:
                    yield Mark.DOCUMENT_END
                    if other:
                        yield other
