"""Decoders that Python lacks: several encodings in one file, doubly encoded UTF-8, CESU-8, and other variants."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

from quillgpt.config.encoding_rules import TWICE
from quillgpt.text.encodings.alphabets import is_common

LONGEST_LINE = 1 << 16
"""Bytes; a longer line is decoded in parts."""

_SURROGATES = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_HALF_A_PAIR = re.compile(rb"\xed(?:[\xa0-\xaf](?:[\x80-\xbf](?:\xed[\xb0-\xbf]?)?)?)?\Z")
EURO_OF_GBK = 0x80


def decoder_of(encoding: str) -> codecs.IncrementalDecoder:
    """Return a new decoder for an encoding, named as `config.encoding_rules.encoding_named` names it."""
    if "+" in encoding:
        return _ByLine(_first_that_fits(encoding.split("+")))
    if encoding.startswith(TWICE):
        return _ByLine(_twice(encoding.removeprefix(TWICE)))
    if encoding == "cesu-8":
        return _Cesu8()
    if encoding == "cp1258":
        return _Vietnamese()
    return codecs.getincrementaldecoder(encoding)(_WITH_EURO if encoding == "gb18030" else "strict")


def decode(content: bytes, encoding: str) -> str:
    """Decode a whole text."""
    return decoder_of(encoding).decode(content, final=True)


class _Cesu8(codecs.BufferedIncrementalDecoder):
    """UTF-8, except that a character beyond U+FFFF is two surrogates of three bytes each."""

    def _buffer_decode(self, content: Any, _errors: str, final: bool) -> tuple[str, int]:
        if not final:
            beginning = _HALF_A_PAIR.search(content, max(0, len(content) - 5))
            content = content[: beginning.start()] if beginning else content
        return codecs.utf_8_decode(content, _JOINING, final)


class _Vietnamese(codecs.BufferedIncrementalDecoder):
    """windows-1258, which writes a letter and its tone as two characters; they are joined into one."""

    def _buffer_decode(self, content: Any, _errors: str, final: bool) -> tuple[str, int]:
        text, taken = codecs.lookup("cp1258").decode(content)
        if not final:
            taken -= next((n for n in range(1, len(text) + 1) if not unicodedata.combining(text[-n])), 0)
        return unicodedata.normalize("NFC", text[:taken]), taken


class _ByLine(codecs.BufferedIncrementalDecoder):
    """Decodes line by line, so that the text does not depend on how the bytes are cut."""

    def __init__(self, decode_line: Callable[[bytes], str]) -> None:
        super().__init__()
        self._decode_line = decode_line

    def _buffer_decode(self, content: Any, _errors: str, final: bool) -> tuple[str, int]:
        start, parts = 0, []
        while start < len(content):
            end = _end_of_line(content, start)
            if end is None:
                if not final:
                    break
                end = len(content)
            try:
                parts.append(self._decode_line(content[start:end]))
            except UnicodeDecodeError as error:
                raise UnicodeDecodeError(
                    error.encoding, content, start + error.start, start + error.end, error.reason
                ) from error
            start = end
        return "".join(parts), start


def _end_of_line(content: bytes, start: int) -> int | None:
    """Return the end of a line, or of a part of a long line; None if the rest may still come."""
    ends = [place for end in (b"\n", b"\r") if (place := content.find(end, start, start + LONGEST_LINE)) >= 0]
    if ends:
        return min(ends) + 1
    if len(content) <= start + LONGEST_LINE:
        return None
    end = start + LONGEST_LINE
    blank = content.rfind(b" ", start + LONGEST_LINE // 2, end)
    if blank >= 0:
        return blank + 1
    while 0x80 <= content[end] < 0xC0 and end > start + LONGEST_LINE - 4:
        end -= 1
    return end


def _first_that_fits(encodings: list[str]) -> Callable[[bytes], str]:
    def decode_line(line: bytes) -> str:
        for encoding in encodings[:-1]:
            try:
                return decode(line, encoding)
            except UnicodeDecodeError:
                continue
        return decode(line, encodings[-1])

    return decode_line


def _twice(between: str) -> Callable[[bytes], str]:
    undo = undoing(between)
    return lambda line: undo(line.decode("utf-8"))


def undoing(between: str, undone: list[str] | None = None) -> Callable[[str], str]:
    """Return a function that repairs text whose UTF-8 was taken for another encoding.

    Args:
        between: The other encoding.
        undone: A list to which the function adds every piece that it repairs.
    """
    back, run = _ways_back(between)

    def undo(match: re.Match[str]) -> str:
        try:
            text = bytes(back[ord(character)] for character in match[0]).decode("utf-8")
        except UnicodeDecodeError:
            return match[0]
        if not all(map(is_common, text)):  # correct text that happens to look like UTF-8
            return match[0]
        if undone is not None:
            undone.append(text)
        return text

    return lambda text: run.sub(undo, text)


@cache
def _ways_back(between: str) -> tuple[dict[int, int], re.Pattern[str]]:
    """Return the byte of every character of an encoding, and a pattern for two or more of these in a row."""
    back = {byte: byte for byte in range(0x80, 0xA0)}  # some programs use ISO-8859-1 for these
    back |= {ord(character): byte for byte, character in characters_of(between).items()}
    return back, re.compile(f"[{re.escape(''.join(map(chr, back)))}]{{2,}}")


def characters_of(encoding: str) -> dict[int, str]:
    """Return the characters of the bytes beyond ASCII, from ISO-8859-1 where the encoding has none."""
    return {byte: bytes([byte]).decode(encoding, "ignore") or chr(byte) for byte in range(0x80, 0x100)}


def _join_surrogates(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    pair = _SURROGATES.match(error.object, error.start)
    if pair is None:
        raise error
    halves = pair[0].decode("utf-8", "surrogatepass")
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le"), pair.end()


def _read_euro(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    if error.object[error.start] != EURO_OF_GBK:
        raise error
    return "€", error.start + 1


_JOINING = "quillgpt-join-surrogates"
_WITH_EURO = "quillgpt-euro-of-gbk"
codecs.register_error(_JOINING, _join_surrogates)
codecs.register_error(_WITH_EURO, _read_euro)
