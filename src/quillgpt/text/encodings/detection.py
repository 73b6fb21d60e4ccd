"""Detects the encoding of a text file, and what is unusual about the file."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from quillgpt.text.encodings.formats import check_format
from quillgpt.text.encodings.reading import (
    CHUNK_BYTES,
    EmptyFileError,
    Note,
    Reading,
    decoded,
    end_of_text,
    file_chunks,
    has_bare_euro,
    read_pieces,
)
from quillgpt.text.encodings.scan import SAMPLE_BYTES

__all__ = ["CHUNK_BYTES", "SAMPLE_BYTES", "Note", "Reading", "detect_encoding", "file_chunks", "look_at", "read_pieces"]

# UTF-32 comes first, since its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


_FEWEST_OF_A_WIDE_TEXT = 32


def detect_encoding(path: Path, *, name: str | None = None) -> str:
    """Return the name of a text file's encoding; `look_at` returns more."""
    return look_at(path, name=name).encoding


def look_at(path: Path, *, name: str | None = None, encoding: str | None = None) -> Reading:
    """Read a whole file and return its encoding: by its byte-order mark, UTF-8 if valid, else the likeliest.

    Args:
        path: The file.
        name: Its name in messages.
        encoding: The encoding that the user named, if any.

    Raises:
        DataError: The file is empty, binary or damaged, or its encoding cannot be recognised.
    """
    from quillgpt.text.encodings.guessing import (  # slow to import, and not needed to complete names
        by_lines,
        doubts,
        read_as,
    )

    name = name or str(path)
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if not head:
        raise EmptyFileError(f"{name} is empty; give a file with some text in it")
    check_format(head, name)
    end = end_of_text(path)
    if end == 0:
        raise EmptyFileError(f"{name} is empty except for NUL characters; get the file again")
    head = head[:end]
    if encoding in ("utf-16", "utf-32") and _by_mark(head) != encoding:
        without_mark = _wide_without_mark(head, end)
        encoding = without_mark if without_mark and without_mark.startswith(encoding) else f"{encoding}-le"
    if encoding is not None:
        reading = Reading(encoding, doubts(path, encoding, end))
    elif (known := _by_mark(head) or _wide_without_mark(head, end)) is not None:
        reading = Reading(known, () if known == "utf-8-sig" else (read_as(known),))
    else:
        reading = by_lines(path, name, head, end)
    cut = _read_through(path, reading.encoding, name)
    padding = path.stat().st_size - end_of_text(path, reading.encoding)
    notes = list(reading.notes)
    if padding:
        notes.append(Note("padding", f"ends in {padding:,} NUL bytes, which are left out"))
    if reading.encoding == "gb18030" and has_bare_euro(path):
        notes.append(Note("euro", "has the byte 0x80, which is read as the euro sign, as in cp936"))
    if cut:
        notes.append(Note("cut off", "was cut off in the middle of its last character, which is left out"))
    return Reading(reading.encoding, tuple(notes))


def _read_through(path: Path, encoding: str, name: str) -> bool:
    """Decode a whole file, and return whether it ends in the middle of a character."""
    pieces, empty = decoded(path, encoding, name), True
    while True:
        try:
            empty &= not next(pieces).strip("\ufeff")
        except StopIteration as ended:
            if empty:
                raise EmptyFileError(
                    f"{name} is empty except for a byte-order mark; give a file with some text in it"
                ) from None
            return bool(ended.value)


def _by_mark(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def _wide_without_mark(head: bytes, end: int) -> str | None:
    """Return the UTF-16 or UTF-32 encoding of a file without a mark, recognised by its many NUL bytes, or None."""
    whole = head[: len(head) // 4 * 4]
    for encoding, first, second in (("utf-32-le", 3, 2), ("utf-32-be", 0, 1)):
        small = len(whole) >= 8 and not any(whole[first::4]) and max(whole[second::4]) <= 0x10
        if small and _reads_well(whole, encoding):
            return encoding
    if end % 2 and end < _FEWEST_OF_A_WIDE_TEXT:
        return None  # more likely a stray NUL than a text that was cut off
    head = head[: len(head) // 2 * 2]
    first_halves, second_halves = head[::2].count(0), head[1::2].count(0)
    nuls = first_halves + second_halves
    if nuls == 0 or (nuls < len(head) // 4 and _reads_well(head.replace(b"\0", b""), "utf-8")):
        return None  # UTF-8, perhaps with some stray NULs
    encodings = [encoding for encoding in ("utf-16-le", "utf-16-be") if _reads_well(head, encoding)]
    likely = "utf-16-le" if second_halves >= first_halves else "utf-16-be"
    return likely if likely in encodings else next(iter(encodings), None)


def _reads_well(head: bytes, encoding: str) -> bool:
    """Return whether the beginning of a file has only characters that occur in texts."""
    try:
        characters = set(codecs.getincrementaldecoder(encoding)().decode(head))
    except UnicodeDecodeError:
        return False
    strange = {"Cc", "Cn", "Co"}  # control, not assigned, private
    return strange.isdisjoint(map(unicodedata.category, characters - set("\t\n\f\r")))
