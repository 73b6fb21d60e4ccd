"""The characters of a text file in bounded memory, and the places of what is none."""

from __future__ import annotations

import codecs
import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.encoding_rules import title_of
from quillgpt.errors import DataError
from quillgpt.text.encodings.decoders import EURO_OF_GBK, decoder_of

CHUNK_BYTES = 1 << 20


class EmptyFileError(DataError):
    """A file with nothing in it."""


@dataclass(frozen=True)
class Note:
    """Something about a file that a person should know.

    Attributes:
        kind: What notes of the same kind, about other files, share.
        words: What is to be said after the file's name.
    """

    kind: str
    words: str


@dataclass(frozen=True)
class Reading:
    """How a file is read: its encoding, and what is odd about it."""

    encoding: str
    notes: tuple[Note, ...] = ()


def file_chunks(path: Path, *, end: int | None = None, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield a file's bytes up to a place in it, so many at a time."""
    left = path.stat().st_size if end is None else end
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(size, left))):
            left -= len(chunk)
            yield chunk


def end_of_text(path: Path, encoding: str = "utf-8") -> int:
    """Return how many bytes of a file are left without the NUL characters at its end, which pad it."""
    width = width_of(encoding)
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        while end > 0:
            start = max(0, end - CHUNK_BYTES)
            file.seek(start)
            kept = start + len(file.read(end - start).rstrip(b"\0"))
            if kept > start:
                return min(file.seek(0, io.SEEK_END), -(-kept // width) * width)
            end = start
    return 0


def width_of(encoding: str) -> int:
    """Return how many bytes a character has at least."""
    return 4 if encoding.startswith("utf-32") else 2 if encoding.startswith("utf-16") else 1


def read_pieces(path: Path, encoding: str, characters: int, *, name: str | None = None) -> Iterator[str]:
    r"""Yield a file's text in pieces of at most so many characters, every line end (`\r\n`, `\r`) as `\n`.

    NUL characters at the end are left out, and so is a last character of which a part is missing.

    Raises:
        DataError: The bytes are no text in this encoding, or the file has no text at all.
    """
    name = name or str(path)
    empty = True
    for text in _newlines(decoded(path, encoding, name, min(characters, CHUNK_BYTES))):
        if empty:  # programs that put a mark before a text that has one leave several
            text = text.lstrip("\ufeff")
        for start in range(0, len(text), characters):
            empty = False
            yield text[start : start + characters]
    if empty:
        raise EmptyFileError(f"{name} is empty; give a file with some text in it")


def decoded(path: Path, encoding: str, name: str, size: int = CHUNK_BYTES) -> Generator[str, None, bool]:
    """Yield a file's characters as they are decoded, and return whether the last one was cut off.

    Args:
        path: The file.
        encoding: Its encoding.
        name: What to call it in messages.
        size: Bytes that are decoded at once.

    Raises:
        DataError: The bytes are no text in this encoding.
    """
    decoder = decoder_of(encoding)
    left = end_of_text(path, encoding)
    place = 0
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(size, left))):
            left -= len(chunk)
            place += len(chunk)
            try:
                text = decoder.decode(chunk)
            except UnicodeDecodeError as error:
                raise _damage(path, encoding, place - len(error.object) + error.start, name) from error
            if "\0" in text:
                raise binary(path, encoding, name)
            yield text
    try:
        text = decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        if not is_cut_off(error):
            raise _damage(path, encoding, place - len(error.object) + error.start, name) from error
        return True
    if "\0" in text:
        raise binary(path, encoding, name)
    yield text
    return False


def is_cut_off(error: UnicodeDecodeError) -> bool:
    """Return whether all that is wrong is that the last character ends too early."""
    return any(words in error.reason for words in ("unexpected end", "incomplete multibyte", "truncated data"))


def _newlines(texts: Iterator[str]) -> Iterator[str]:
    translate = io.IncrementalNewlineDecoder(None, translate=True)
    for text in texts:
        yield translate.decode(text)
    yield translate.decode("", final=True)


def line_at(path: Path, encoding: str, place: int) -> int:
    """Return the number of the line in which a byte of a file stands, the first being 1."""
    return 1 + sum(text.count("\n") for text in _any_text(path, encoding, place))


def _any_text(path: Path, encoding: str, end: int | None = None) -> Iterator[str]:
    """Yield a text of which only line ends and NUL characters are sure to be right."""
    decoder = codecs.getincrementaldecoder("iso8859_1" if width_of(encoding) == 1 else encoding)("replace")
    return _newlines(decoder.decode(chunk) for chunk in file_chunks(path, end=end))


def binary(path: Path, encoding: str, name: str) -> DataError:
    """Return the error that a file has NUL characters among its text."""
    line = 1
    for text in _any_text(path, encoding):
        before, found, _ = text.partition("\0")
        line += before.count("\n")
        if found:
            break
    return DataError(f"{name} is a binary file (line {line} has a NUL character, as no text has); give a text file")


def has_bare_euro(path: Path) -> bool:
    """Return whether a text in GB 18030 has the euro sign of cp936, a byte that is no character of GB 18030."""
    decoder = codecs.getincrementaldecoder("gb18030")()
    try:
        for chunk in file_chunks(path):
            decoder.decode(chunk)
    except UnicodeDecodeError as error:
        return error.object[error.start] == EURO_OF_GBK
    return False


def _damage(path: Path, encoding: str, place: int, name: str) -> DataError:
    with path.open("rb") as file:
        file.seek(place)
        byte = file.read(1)[0]
    return DataError(
        f"{name}, line {line_at(path, encoding, place)}: byte 0x{byte:02x} is no {encoding}, as the rest of the text "
        f"seems to be; mend that line, save the file as UTF-8 with a program that shows its letters rightly, or name "
        f"another encoding than {title_of(encoding)} with --encoding"
    )
