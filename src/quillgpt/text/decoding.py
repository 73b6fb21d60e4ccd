"""From the bytes of a file to text: which encoding it has, and its characters in bounded memory."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from quillgpt.errors import DataError
from quillgpt.text.legacy import legacy_encoding

CHUNK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16

# UTF-32 stands before UTF-16, whose little-endian mark it begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAVE = "open it, save it as plain text (UTF-8), and give that file"
_UNPACK = "unpack it and give the text in it"
_FORMATS = (
    (b"%PDF-", "a PDF document", _SAVE),
    (b"PK\x03\x04", "a Word document, an e-book or another zip archive", _SAVE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an older Microsoft Office", _SAVE),
    (b"{\\rtf", "an RTF document", _SAVE),
    (b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (b"BZh91AY&SY", "compressed with bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"\x89PNG\r\n", "a PNG image", "give a text file"),
    (b"\xff\xd8\xff", "a JPEG image", "give a text file"),
    (b"SQLite format 3\0", "an SQLite database", "export its texts and give that file"),
    (b"\x7fELF", "a program", "give a text file"),
    (b"MZ\x90\0", "a program", "give a text file"),
)
_DAMAGE = "\ud800"  # stands for bytes that are no character; no text has it


def detect_encoding(path: Path, *, name: str | None = None) -> str:
    """Return the name of a text file's encoding: by its mark, UTF-8 if it is valid, else by what the text looks like.

    Args:
        path: The file.
        name: What to call it in messages.

    Raises:
        DataError: It is empty, binary, damaged UTF-8, or in no encoding that can be recognised.
    """
    name = name or str(path)
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if not head:
        raise DataError(f"{name} is empty; give a file with some text in it")
    for signature, what, remedy in _FORMATS:
        if head.startswith(signature):
            raise DataError(f"{name} is {what}, not plain text; {remedy}")
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    return _utf16_without_mark(head) or _utf8(path, name) or _legacy(path, name)


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
                    raise _binary(path, encoding, name)
                if empty:  # programs that put a mark before a text that has one leave several
                    piece = piece.lstrip("\ufeff")
                if piece:
                    empty = False
                    yield piece
    except UnicodeDecodeError as error:
        place = f"{name}, line {_line_of(_DAMAGE, path, encoding)}"
        raise DataError(
            f"{place}: {_first_byte(error)} is no {encoding}, as the rest of the text seems to be; mend that line, or "
            "save the file as UTF-8 with a program that shows its letters rightly"
        ) from error
    if empty:
        raise DataError(f"{name} is empty; give a file with some text in it")


def _utf16_without_mark(head: bytes) -> str | None:
    """Return which UTF-16 a file without a mark is in, if any: half of each ASCII character in it is NUL."""
    head = head[: len(head) // 2 * 2]
    first_halves, second_halves = head[::2].count(0), head[1::2].count(0)
    nuls = first_halves + second_halves
    if nuls == 0 or (nuls < len(head) // 4 and _reads_well(head.replace(b"\0", b""), "utf-8")):
        return None  # not even when some NULs have strayed into a text in UTF-8
    encodings = [encoding for encoding in ("utf-16-le", "utf-16-be") if _reads_well(head, encoding)]
    likely = "utf-16-le" if second_halves >= first_halves else "utf-16-be"
    return likely if likely in encodings else next(iter(encodings), None)


def _reads_well(head: bytes, encoding: str) -> bool:
    """Tell whether the beginning of a file has only characters that stand in texts."""
    try:
        characters = set(codecs.getincrementaldecoder(encoding)().decode(head))
    except UnicodeDecodeError:
        return False
    strange = {"Cc", "Cn", "Co"}  # control, not assigned, private
    return strange.isdisjoint(map(unicodedata.category, characters - set("\t\n\f\r")))


def _utf8(path: Path, name: str) -> str | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in file_chunks(path):
            if b"\0" in chunk:
                raise _binary(path, "utf-8", name)
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        if not _is_mostly_utf8(_lines_beyond_ascii(path)):
            return None
        if error.reason == "unexpected end of data":
            raise DataError(
                f"{name} ends in the middle of a UTF-8 character; it was cut off, so get the whole file again"
            ) from error
        raise DataError(
            f"{name}, line {_line_of(_DAMAGE, path, 'utf-8')}: {_first_byte(error)} is no UTF-8, although the rest of "
            "the text is; mend that line, or save the file as UTF-8 again"
        ) from error
    return "utf-8"


def _is_mostly_utf8(sample: bytes) -> bool:
    """Tell whether a text is UTF-8, if perhaps damaged; in another encoding hardly any bytes happen to be valid."""
    text = sample.decode("utf-8", errors="replace")
    return sum(not character.isascii() for character in text) >= 2 * text.count("\ufffd")


def _legacy(path: Path, name: str) -> str:
    sample = _lines_beyond_ascii(path)
    encoding = legacy_encoding(sample)
    if encoding is None:
        raise DataError(
            f"{name} is a binary file, or a text in an encoding that could not be recognised; give a text file, saved "
            "as UTF-8"
        )
    return encoding


def _lines_beyond_ascii(path: Path) -> bytes:
    """Return lines that have bytes beyond ASCII, from all that tell encodings apart as many as make a good sample."""
    sample = b""
    with path.open("rb") as file:
        while len(sample) < SAMPLE_BYTES and (line := file.readline(SAMPLE_BYTES)):
            if not line.isascii():
                sample += line
    if len(sample) < SAMPLE_BYTES or sample.endswith(b"\n"):
        return sample
    # A long line that was cut in the middle of a character would be in no encoding at all.
    end = 1 + max(sample.rfind(blank) for blank in (b" ", b"\r", b"\n"))
    return sample[:end] if end > len(sample) // 2 else sample


def _binary(path: Path, encoding: str, name: str) -> DataError:
    line = _line_of("\0", path, encoding)
    return DataError(f"{name} is a binary file (line {line} has a NUL character, as no text has); give a text file")


def _first_byte(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x}"


def _line_of(character: str, path: Path, encoding: str) -> int:
    """Return the number of the line in which a character, or a damage, first occurs."""
    lines = 1
    with path.open("r", encoding=encoding, errors=_MARKING, newline=None) as file:
        while piece := file.read(CHUNK_BYTES):
            before, found, _ = piece.partition(character)
            lines += before.count("\n")
            if found:
                break
    return lines


def _mark_damage(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _DAMAGE, error.end


_MARKING = "quillgpt-mark-damage"
codecs.register_error(_MARKING, _mark_damage)
