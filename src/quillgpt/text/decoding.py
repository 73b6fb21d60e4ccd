"""From the bytes of a file to text: which encoding it has, and its characters in bounded memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from charset_normalizer import from_bytes

from quillgpt.errors import DataError

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 18

# UTF-32 stands before UTF-16, whose little-endian mark it begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def detect_encoding(path: Path, *, name: str | None = None) -> str:
    """Return the name of a text file's encoding: by its byte-order mark, UTF-8 if it is valid, else by its statistics.

    Args:
        path: The file.
        name: What to call it in messages.

    Raises:
        DataError: It is empty, binary, damaged UTF-8, or in no encoding that can be recognised.
    """
    name = name or str(path)
    with path.open("rb") as file:
        head = file.read(4)
        if not head:
            raise DataError(f"{name} is empty; give a file with some text in it")
        for mark, encoding in _MARKS:
            if head.startswith(mark):
                return encoding
        file.seek(0)
        return _encoding_without_mark(file_chunks(path), name)


def file_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes, a megabyte at a time."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def read_pieces(path: Path, encoding: str, characters: int, *, name: str | None = None) -> Iterator[str]:
    r"""Yield a file's text in pieces of so many characters, every line end (`\r\n`, `\r`) as `\n`.

    Raises:
        DataError: The bytes are no text in this encoding, or the file has no text at all.
    """
    name = name or str(path)
    empty = True
    try:
        with path.open("r", encoding=encoding, newline=None) as file:
            while piece := file.read(characters):
                if "\0" in piece:
                    raise DataError(f"{name} is a binary file (it has NUL characters); give a text file")
                empty = False
                yield piece
    except UnicodeError as error:
        raise DataError(f"{name} cannot be read as {encoding} ({error}); save it as UTF-8 and try again") from error
    if empty:
        raise DataError(f"{name} is empty; give a file with some text in it")


def _encoding_without_mark(chunks: Iterator[bytes], name: str) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = lines = whole_characters = 0
    for chunk in chunks:
        if b"\0" in chunk:
            raise DataError(f"{name} is a binary file (it has NUL bytes); give a text file")
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError as error:
            # `error.object` is this chunk after the bytes that were left over from the one before.
            before = error.object[: error.start].decode("utf-8")
            whole_characters += _beyond_ascii(before)
            line = lines + before.count("\n") + 1
            return _legacy_encoding(error.object, error.start, whole_characters, f"{name}, line {line}", name)
        lines += text.count("\n")
        whole_characters += _beyond_ascii(text)
        offset += len(chunk)
    if decoder.getstate()[0]:
        raise DataError(f"{name} ends in the middle of a UTF-8 character; it was cut off, so get the whole file again")
    return "utf-8"


def _beyond_ascii(text: str) -> int:
    return 0 if text.isascii() else sum(character > "\x7f" for character in text)


def _legacy_encoding(chunk: bytes, position: int, whole_characters: int, place: str, name: str) -> str:
    sample = chunk[max(0, position - SAMPLE_BYTES // 2) : position + SAMPLE_BYTES // 2]
    # Text of another encoding rarely holds valid UTF-8 sequences; several before the first bad byte mean damage.
    if whole_characters >= 8:
        raise DataError(
            f"{place}: byte 0x{chunk[position]:02x} is no UTF-8, although the text before it is; mend that line, or "
            "convert the file with an editor that can save as UTF-8"
        )
    best = from_bytes(sample).best()
    if best is None:
        raise DataError(f"{name} is a binary file, or in an unknown encoding; save it as UTF-8 and try again")
    # The Windows encoding of Western Europe is far the commonest of those that agree on a text.
    return "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding
