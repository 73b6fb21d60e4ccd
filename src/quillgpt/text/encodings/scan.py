"""Which lines of a file are UTF-8, and which are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quillgpt.text.encodings.decoders import decode
from quillgpt.text.encodings.reading import file_chunks, is_cut_off

SAMPLE_BYTES = 1 << 16
BLOCK_BYTES = 1 << 18

_LINE_BEYOND_ASCII = re.compile(rb"[^\r\n]*[\x80-\xff][^\r\n]*[\r\n]*")
_HIGH = re.compile(rb"[\x80-\xff]")


@dataclass
class Lines:
    """Lines with bytes beyond ASCII.

    Attributes:
        sample: The first of them, as many as make a good sample.
        first: The place of the first such byte in the file.
    """

    sample: bytearray = field(default_factory=bytearray)
    first: int | None = None

    def add(self, line: bytes, place: int) -> None:
        """Take another line, which begins at a place of the file."""
        high = _HIGH.search(line)
        if high is None:
            return
        if self.first is None:
            self.first = place + high.start()
        room = SAMPLE_BYTES - len(self.sample)
        if room > 0:
            self.sample += line if len(line) <= room else _beginning(line, room)


@dataclass
class Scan:
    """What a file without a mark is made of.

    Attributes:
        utf8: Lines that are UTF-8.
        others: Lines that are not.
        surrogates: The place of the first line that is CESU-8.
        nul: The place of the first NUL character.
        cut: Bytes of a character at the end of which the rest is missing; they stand in no line.
        escapes: Whether there are escape sequences, with which some encodings of 7 bits change their characters.
    """

    utf8: Lines = field(default_factory=Lines)
    others: Lines = field(default_factory=Lines)
    surrogates: int | None = None
    nul: int | None = None
    cut: int = 0
    escapes: bool = False


def scan(path: Path, end: int) -> Scan:
    """Read a file up to a place in it, and sort its lines."""
    found = Scan()
    for place, block in blocks_of_lines(path, end):
        if found.nul is None and (nul := block.find(b"\0")) >= 0:
            found.nul = place + nul
        if block.isascii():
            found.escapes |= b"\x1b" in block or b"~{" in block
            continue
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            _sort(block, place, end, found)
            continue
        if found.utf8.first is None or len(found.utf8.sample) < SAMPLE_BYTES:
            for line in _LINE_BEYOND_ASCII.finditer(block):
                found.utf8.add(line[0], place + line.start())
                if len(found.utf8.sample) >= SAMPLE_BYTES:
                    break
    return found


def _sort(block: bytes, place: int, end: int, found: Scan) -> None:
    for line in block.splitlines(keepends=True):
        try:
            line.decode("utf-8")
            found.utf8.add(line, place)
        except UnicodeDecodeError as error:
            if place + len(line) == end and is_cut_off(error) and _is_utf8_so_far(found, line[: error.start]):
                found.cut = len(line) - error.start
                found.utf8.add(line[: error.start], place)
            elif _is_cesu8(line):
                found.surrogates = place if found.surrogates is None else found.surrogates
                found.utf8.add(line, place)
            else:
                found.others.add(line, place)
        place += len(line)


def _is_utf8_so_far(found: Scan, line: bytes) -> bool:
    return found.others.first is None and (found.utf8.first is not None or not line.isascii())


def _is_cesu8(line: bytes) -> bool:
    if b"\xed" not in line:
        return False
    try:
        decode(line, "cesu-8")
    except UnicodeDecodeError:
        return False
    return True


def blocks_of_lines(path: Path, end: int, size: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield a file up to a place in it in blocks of whole lines, each with its place.

    A line that is longer than a block is divided where a character of UTF-8 ends.
    """
    place, waiting = 0, b""
    for chunk in file_chunks(path, end=end, size=max(size, BLOCK_BYTES)):
        waiting += chunk
        start = 0
        while len(waiting) - start > size:
            limit = start + size
            cut = 1 + max(waiting.rfind(b"\n", start, limit), waiting.rfind(b"\r", start, limit))
            cut = cut or _character_start(waiting, limit)
            yield place + start, waiting[start:cut]
            start = cut
        place, waiting = place + start, waiting[start:]
    if waiting:
        yield place, waiting


def _character_start(content: bytes, place: int) -> int:
    for back in range(4):
        if content[place - back] & 0xC0 != 0x80:
            return place - back
    return place


def _beginning(line: bytes, size: int) -> bytes:
    """Return the beginning of a line; cut in the middle of a character it would be in no encoding at all."""
    end = 1 + max(line.rfind(blank, 0, size) for blank in (b" ", b"\r", b"\n"))
    return line[: end if end > size // 2 else size]
