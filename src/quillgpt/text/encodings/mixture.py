"""Files in several encodings: which ones, and where they begin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from quillgpt.config.encoding_rules import title_of
from quillgpt.errors import DataError
from quillgpt.text.encodings.alphabets import is_common
from quillgpt.text.encodings.legacy import Guess, guesses, nats_of
from quillgpt.text.encodings.reading import Note, Reading, binary, line_at
from quillgpt.text.encodings.scan import SAMPLE_BYTES, Scan, blocks_of_lines

SURE = 0.95
_ALMOST_CERTAIN = 0.999
_FEWEST_BYTES = 12
"""Bytes beyond ASCII; with fewer, nothing is certain."""
_WORSE = 0.7
"""Nats per byte; a part that is this much less likely than the whole may be in another encoding."""
_HIGH = re.compile(rb"[\x80-\xff]")


def mixed(path: Path, name: str, scanned: Scan) -> Reading | None:
    """Return the encodings of a file of which only some lines are UTF-8; None if these are UTF-8 by chance.

    Raises:
        DataError: The encoding of the other lines is not certain.
    """
    if scanned.utf8.first is None:
        return None
    utf8, sample = bytes(scanned.utf8.sample), bytes(scanned.others.sample)
    best = guesses(sample)[0]
    if nats_of(utf8, best.encoding, best.language) > best.nats - 1 or not _are_letters(utf8):
        return None
    assert scanned.others.first is not None
    if not best.is_text or best.share < SURE or len(_HIGH.findall(sample)) < _FEWEST_BYTES:
        place = scanned.others.first + _first_damage(sample)
        line = line_at(path, "utf-8", place)
        raise DataError(
            f"{name}, line {line}: byte 0x{_byte_at(path, place):02x} is not valid UTF-8, although the rest of the "
            f"text is; correct that line, save the file as UTF-8 again, or read such lines as another encoding: "
            f"--encoding=utf-8+{best.encoding}"
        )
    first = "utf-8" if scanned.surrogates is None else "cesu-8"
    parts = sorted(((scanned.utf8.first, first), (scanned.others.first, best.encoding)))
    return Reading(
        f"{first}+{best.encoding}",
        (Note("mixed", f"is in several encodings: {_places(path, parts)}; each line is read in its own"),),
    )


def _are_letters(utf8: bytes) -> bool:
    """Return whether bytes that are valid UTF-8 also make sense as UTF-8."""
    beyond = [character for character in utf8.decode("utf-8", "ignore") if not character.isascii()]
    return sum(map(is_common, beyond)) > 0.8 * len(beyond)


def _first_damage(sample: bytes) -> int:
    """Return the distance from the first byte beyond ASCII to the first byte that is not valid UTF-8."""
    high = _HIGH.search(sample)
    try:
        sample.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start - (high.start() if high else 0)
    return 0


def _byte_at(path: Path, place: int) -> int:
    with path.open("rb") as file:
        file.seek(place)
        return file.read(1)[0]


def _places(path: Path, parts: list[tuple[int, str]]) -> str:
    return " and ".join(
        f"{title_of(encoding)} (first in line {line_at(path, 'utf-8', place):,}, byte {place:,})"
        for place, encoding in parts
    )


def with_nul(path: Path, nul: int, name: str, end: int) -> DataError:
    """Return the error for a file with NUL characters: UTF-16 was appended to a text, or it is binary."""
    for start, encoding in ((nul - 1, "utf-16-le"), (nul, "utf-16-be")):
        with path.open("rb") as file:
            file.seek(max(0, start))
            appended = file.read(min(SAMPLE_BYTES, end - start) // 2 * 2)
        if start > 0 and len(appended) >= 2 * _FEWEST_BYTES and appended.count(0) >= len(appended) // 4:
            try:
                text = appended.decode(encoding)
            except UnicodeDecodeError:
                continue
            if all(character.isprintable() or character in "\t\r\n\ufeff" for character in text):
                line = line_at(path, "utf-8", start)
                return DataError(
                    f"{name} is in several encodings: UTF-16 begins in line {line:,} (byte {start:,}), as `>>` of "
                    "Windows PowerShell appends it; save that part as UTF-8"
                )
    return binary(path, "utf-8", name)


def _parts(path: Path, end: int) -> Iterator[bytes]:
    """Yield parts of a file with enough bytes beyond ASCII to judge; of a large file, parts spread evenly."""
    size = min(max(end // 16, 512), SAMPLE_BYTES)
    every = max(1, end // (size * 32))
    whole = True  # a long line may be cut in the middle of a character
    for number, (_, block) in enumerate(blocks_of_lines(path, end, size)):
        if whole and number % every == 0 and len(_HIGH.findall(block)) >= 2 * _FEWEST_BYTES:
            yield block
        whole = block.endswith((b"\n", b"\r"))


def several_encodings(path: Path, name: str, end: int, best: Guess) -> DataError | None:
    """Return the error for a file whose parts are certainly in different encodings, or None.

    Args:
        path: The file.
        name: Its name in messages.
        end: The end of its text, in bytes.
        best: The likeliest encoding of the whole file.
    """
    if not best.is_text:
        certain = [guess for part in _parts(path, end) if (guess := _certain(part)) is not None]
        best = certain[0] if certain else best
        other = next((guess for guess in certain if guess.encoding != best.encoding), None)
    else:
        other = _other_part(path, end, best)
    if other is None:
        return None
    first, second = (_first_place(path, end, *pair) for pair in ((best, other), (other, best)))
    parts = sorted(((first, best.encoding), (second, other.encoding)))
    return DataError(
        f"{name} is in several encodings: {_places(path, parts)}; split the file there, or read all of it as one with "
        f"--encoding={best.encoding}"
    )


def _certain(part: bytes) -> Guess | None:
    guess = guesses(part)[0]
    return guess if guess.is_text and guess.share >= _ALMOST_CERTAIN else None


def _other_part(path: Path, end: int, best: Guess) -> Guess | None:
    judged = [nats_of(part, best.encoding, best.language) for part in _parts(path, end)]
    if len(judged) < 2:
        return None
    usual = sorted(judged)[3 * len(judged) // 4]
    for part, nats in zip(_parts(path, end), judged, strict=True):
        if nats < usual - _WORSE and (other := _certain(part)) is not None:
            differs = part.decode(other.encoding, "replace") != part.decode(best.encoding, "replace")
            if differs and other.nats > nats + 1:
                return other
    return None


def _first_place(path: Path, end: int, one: Guess, other: Guess) -> int:
    """Return the offset of the first byte beyond ASCII in a line that is likelier in `one` than in `other`."""
    for place, block in blocks_of_lines(path, end):
        for line in block.splitlines(keepends=True):
            high = _HIGH.search(line)
            if high and nats_of(line, one.encoding, one.language) > nats_of(line, other.encoding, other.language) + 1:
                return place + high.start()
            place += len(line)
    return 0
