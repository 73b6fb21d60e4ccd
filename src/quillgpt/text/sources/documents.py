"""Documents: where they are, and how their text is read in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path

from quillgpt.config.encoding_rules import DETECTED, EncodingRules
from quillgpt.errors import DataError, UserError
from quillgpt.files import sha256_of
from quillgpt.text.encodings.detection import Reading, look_at, read_pieces
from quillgpt.text.formats.all_formats import FORMATS, format_of
from quillgpt.text.formats.convert import Conversion, Converted, convert
from quillgpt.text.formats.opened import PLAIN, Tally, Wishes
from quillgpt.text.formats.take_out import SEPARATOR


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
        wishes: What is wanted of files that are no plain text.
    """

    encoding: EncodingRules = DETECTED
    skip_unreadable: bool = False
    follow_links: bool = False
    wishes: Wishes = PLAIN


PLAINLY = FileRules()
"""Detect the encodings, refuse unreadable files, and stay inside of folders."""


@dataclass(frozen=True)
class Source:
    """A file on this machine, and where it came from.

    Attributes:
        name: Its name in messages.
        location: Its place in dataset.json: an address, an absolute path, `-`, or the name of a built-in corpus.
        path: Where it can be read now.
        holds_many: Whether it has several documents. If it needs no conversion, Quill wrote it: in UTF-8, with a
            `SEPARATOR` behind each document. Any other file is one document.
        recorded_sha256: Its hash, if it is known already.
        conversion: How its documents are taken out of it; None if it is a text.
    """

    name: str
    location: str
    path: Path
    holds_many: bool = False
    recorded_sha256: str | None = None
    conversion: Conversion | None = None

    @classmethod
    def from_file(cls, path: Path, conversion: Conversion | None = None) -> Source:
        """Return the source of a file.

        Args:
            path: The file.
            conversion: How its documents are taken out of it; None if it is a text.

        Raises:
            DataError: Its path is not UTF-8, so it cannot be recorded.
        """
        location = str(path.resolve())
        try:
            location.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"the path {location} is not UTF-8, and cannot be recorded; rename it") from error
        return cls(str(path), location, path).converted_by(conversion)

    def converted_by(self, conversion: Conversion | None) -> Source:
        """Return the same file, whose documents are taken out of it in a given way."""
        holds_many = self.holds_many if conversion is None else FORMATS[conversion.format].holds_many
        return replace(self, holds_many=holds_many, conversion=conversion)

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
        if self.conversion is not None:
            return self._converted(encoding).reading
        return Reading("utf-8") if self.holds_many else look_at(self.path, name=self.name, encoding=encoding)

    def tally(self, encoding: str | None = None) -> Tally | None:
        """Return what was found in a file that is no plain text; None for a text. Errors are those of `look_at`."""
        return None if self.conversion is None else self._converted(encoding).tally

    def as_text(self, encoding: str | None = None) -> Source:
        """Return the text of the file: the file itself, or what was taken out of it. Errors are those of `look_at`."""
        if self.conversion is None:
            return self
        path = self._converted(encoding).path
        return replace(self, path=path, holds_many=True, recorded_sha256=None, conversion=None)

    @cached_property
    def _conversions(self) -> dict[str | None, Converted | UserError]:
        return {}

    def _converted(self, encoding: str | None) -> Converted:
        """Convert the file, once for each encoding that it is said to have."""
        assert self.conversion is not None
        known = self._conversions.get(encoding)
        if known is None:
            try:
                known = convert(self.path, self.name, self.conversion, encoding)
                self._conversions[known.reading.encoding] = known
            except UserError as error:
                known = error
            self._conversions[encoding] = known
        if isinstance(known, UserError):
            raise known
        return known

    def pieces(self, encoding: str, characters: int) -> Iterator[Piece]:
        """Yield the text in pieces of at most `characters` characters, and a mark after each document.

        Raises:
            DataError: The bytes are not text in this encoding.
        """
        if self.conversion is not None:
            yield from self.as_text(encoding).pieces("utf-8", characters)
            return
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


def source_of_file(path: Path, wishes: Wishes, column: str | None = None) -> Source:
    """Return the source of a file whose format its name, its content or the user tells.

    Raises:
        DataError: Its path is not UTF-8, or it has no columns and one was named.
    """
    return Source.from_file(path, conversion_of(path, wishes, column))


def conversion_of(path: Path, wishes: Wishes, column: str | None = None) -> Conversion | None:
    """Return how the documents of a file are taken out of it, or None if it is a text.

    Raises:
        DataError: It is a text, and a column was named.
    """
    format = format_of(path, wishes.read_as)
    if format is not None:
        return Conversion(format, column, wishes)
    if column is not None:
        raise DataError(f"{path} is a text, which has no columns; give it without :{column}")
    return None
