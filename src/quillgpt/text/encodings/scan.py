"""Sorts the lines of a file into those that are UTF-8 and those that are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quillgpt.text.encodings.decoders import decode
from quillgpt.text.encodings.reading import file_chunks, is_cut_off

SAMPLE_BYTES = 1 << 16
BLOCK_BYTES = 1 << 18

_REST_OF_LINE = re.compile(rb"[^\r\n]*[\r\n]*")
_HIGH = re.compile(rb"[\x80-\xff]")


@dataclass
class Lines:
    """Lines with bytes beyond ASCII.

    Attributes:
        sample: The first of these lines, up to SAMPLE_BYTES.
        first: The offset of the first such byte in the file.
    """

    sample: bytearray = field(default_factory=bytearray)
    first: int | None = None

    def add(self, line: bytes, place: int) -> None:
        """Add a line that begins at the offset `place`."""
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
    """The lines of a file without a byte-order mark.

    Attributes:
        utf8: Lines that are UTF-8.
        others: Lines that are not.
        surrogates: The offset of the first line in CESU-8.
        nul: The offset of the first NUL character.
        cut: Bytes of an incomplete character at the end of the file; they are in no line.
        escapes: Whether there are escape sequences, as in encodings of 7 bits such as ISO-2022-JP.
    """

    utf8: Lines = field(default_factory=Lines)
    others: Lines = field(default_factory=Lines)
    surrogates: int | None = None
    nul: int | None = None
    cut: int = 0
    escapes: bool = False


def scan(path: Path, end: int) -> Scan:
    """Read a file up to the offset `end`, and sort its lines."""
    scanned = Scan()
    for place, block in blocks_of_lines(path, end):
        if scanned.nul is None and (nul := block.find(b"\0")) >= 0:
            scanned.nul = place + nul
        if block.isascii():
            scanned.escapes |= b"\x1b" in block or b"~{" in block
            continue
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            _sort(block, place, end, scanned)
            continue
        if scanned.utf8.first is None or len(scanned.utf8.sample) < SAMPLE_BYTES:
            for start, line in _lines_beyond_ascii(block):
                scanned.utf8.add(line, place + start)
                if len(scanned.utf8.sample) >= SAMPLE_BYTES:
                    break
    return scanned


def _lines_beyond_ascii(block: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with bytes beyond ASCII, each with its offset in the block and with all line ends that follow."""
    end = 0
    while (high := _HIGH.search(block, end)) is not None:
        start = max(end, 1 + max(block.rfind(b"\n", end, high.start()), block.rfind(b"\r", end, high.start())))
        rest = _REST_OF_LINE.match(block, high.start())
        assert rest is not None
        end = rest.end()
        yield start, block[start:end]


def _sort(block: bytes, place: int, end: int, scanned: Scan) -> None:
    for line in block.splitlines(keepends=True):
        try:
            line.decode("utf-8")
            scanned.utf8.add(line, place)
        except UnicodeDecodeError as error:
            if place + len(line) == end and is_cut_off(error) and _is_utf8_so_far(scanned, line[: error.start]):
                scanned.cut = len(line) - error.start
                scanned.utf8.add(line[: error.start], place)
            elif _is_cesu8(line):
                scanned.surrogates = place if scanned.surrogates is None else scanned.surrogates
                scanned.utf8.add(line, place)
            else:
                scanned.others.add(line, place)
        place += len(line)


def _is_utf8_so_far(scanned: Scan, line: bytes) -> bool:
    return scanned.others.first is None and (scanned.utf8.first is not None or not line.isascii())


def _is_cesu8(line: bytes) -> bool:
    if b"\xed" not in line:
        return False
    try:
        decode(line, "cesu-8")
    except UnicodeDecodeError:
        return False
    return True


def blocks_of_lines(path: Path, end: int, size: int = BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield the blocks of whole lines of a file up to the offset `end`, with the offset of every block.

    A line that is longer than a block is divided between two UTF-8 characters.
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
    """Return the beginning of a line, cut at a blank: half a character would be invalid in every encoding."""
    end = 1 + max(line.rfind(blank, 0, size) for blank in (b" ", b"\r", b"\n"))
    return line[: end if end > size // 2 else size]
