"""Reads the characters of a text file in bounded memory, and says where bytes are no text."""

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
    """The file is empty."""


@dataclass(frozen=True)
class Note:
    """Something about a file that the user should know.

    Attributes:
        kind: The same for all notes of one kind, so that several files share one message.
        words: The message, after the file's name.
    """

    kind: str
    words: str


@dataclass(frozen=True)
class Reading:
    """The encoding of a file, and what is unusual about the file."""

    encoding: str
    notes: tuple[Note, ...] = ()


def file_chunks(path: Path, *, end: int | None = None, size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the bytes of a file up to the offset `end`, at most `size` at a time."""
    left = path.stat().st_size if end is None else end
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(size, left))):
            left -= len(chunk)
            yield chunk


def end_of_text(path: Path, encoding: str = "utf-8") -> int:
    """Return the size of a file without the NUL characters that pad its end."""
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
    """Return the smallest number of bytes that a character has in an encoding."""
    return 4 if encoding.startswith("utf-32") else 2 if encoding.startswith("utf-16") else 1


def read_pieces(path: Path, encoding: str, characters: int, *, name: str | None = None) -> Iterator[str]:
    r"""Yield a file's text in pieces of at most `characters`, with every line end (`\r\n`, `\r`) as `\n`.

    NUL characters and an incomplete character at the end are left out.

    Raises:
        DataError: The bytes are not valid in this encoding, or the file has no text.
    """
    name = name or str(path)
    empty = True
    for text in _newlines(decoded(path, encoding, name, min(characters, CHUNK_BYTES))):
        if empty:  # some programs add a mark to a text that already has one
            text = text.lstrip("\ufeff")
        for start in range(0, len(text), characters):
            empty = False
            yield text[start : start + characters]
    if empty:
        raise EmptyFileError(f"{name} is empty; give a file with some text in it")


def decoded(path: Path, encoding: str, name: str, size: int = CHUNK_BYTES) -> Generator[str, None, bool]:
    """Decode a file: yield its text in parts, and return whether it ends in the middle of a character.

    Args:
        path: The file.
        encoding: Its encoding.
        name: Its name in messages.
        size: Bytes that are decoded at once.

    Raises:
        DataError: The bytes are not valid in this encoding.
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
    """Return whether the only error is an incomplete last character."""
    return any(words in error.reason for words in ("unexpected end", "incomplete multibyte", "truncated data"))


def _newlines(texts: Iterator[str]) -> Iterator[str]:
    translate = io.IncrementalNewlineDecoder(None, translate=True)
    for text in texts:
        yield translate.decode(text)
    yield translate.decode("", final=True)


def line_at(path: Path, encoding: str, place: int) -> int:
    """Return the number, from 1, of the line that has the byte at the offset `place`."""
    return 1 + sum(text.count("\n") for text in _any_text(path, encoding, place))


def _any_text(path: Path, encoding: str, end: int | None = None) -> Iterator[str]:
    """Yield the text of a file, of which only line ends and NUL characters are reliable."""
    decoder = codecs.getincrementaldecoder("iso8859_1" if width_of(encoding) == 1 else encoding)("replace")
    return _newlines(decoder.decode(chunk) for chunk in file_chunks(path, end=end))


def binary(path: Path, encoding: str, name: str) -> DataError:
    """Return the error for a file with NUL characters in its text."""
    line = 1
    for text in _any_text(path, encoding):
        before, nul, _ = text.partition("\0")
        line += before.count("\n")
        if nul:
            break
    return DataError(f"{name} is a binary file (line {line} has a NUL character, which no text has); give a text file")


def has_bare_euro(path: Path) -> bool:
    """Return whether a text in GB 18030 has the byte 0x80, which is the euro sign in cp936 alone."""
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
        f"{name}, line {line_at(path, encoding, place)}: byte 0x{byte:02x} is not valid {encoding}, although the rest "
        f"of the text seems to be; correct that line, save the file as UTF-8 with a program that shows its "
        f"letters correctly, or name another encoding than {title_of(encoding)} with --encoding"
    )
