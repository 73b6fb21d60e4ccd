"""The encoding of a file without a byte-order mark: which lines are UTF-8, and what the others are likely to be."""

from __future__ import annotations

from pathlib import Path

from quillgpt.config.encoding_rules import TWICE, title_of
from quillgpt.errors import DataError
from quillgpt.text.encodings.decoders import undoing
from quillgpt.text.encodings.legacy import Guess, guesses, is_known, nats_of
from quillgpt.text.encodings.letters import EAST_ASIAN, east_asian_likelihood
from quillgpt.text.encodings.mixture import SURE, mixed, several_encodings, with_nul
from quillgpt.text.encodings.reading import Note, Reading, decoded, line_at, width_of
from quillgpt.text.encodings.scan import SAMPLE_BYTES, Lines, blocks_of_lines, scan

_ESCAPING = ("iso2022_jp", "iso2022_jp_ext", "iso2022_jp_2", "iso2022_kr", "hz")
_BETWEEN = ("cp1252", "cp1251", "mac_roman", "cp437", "cp850")
_FEWEST_DOUBLED, _FEWEST_IN_A_MIXTURE = 3, 10
_ALL_DOUBLED, _MANY_DOUBLED = 0.9, 0.1
_EAST_ASIAN_NATS = -9.0
_HOPELESS = -5.5
_WORTH_A_WORD = 0.3
_MOST_CONTROLS = 0.02
_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\r\f\x1a\x1b"))


def by_lines(path: Path, name: str, head: bytes, end: int) -> Reading:
    """Return the encoding of a file without a byte-order mark.

    Args:
        path: The file.
        name: Its name in messages.
        head: Its first bytes.
        end: The end of its text, in bytes.

    Raises:
        DataError: The file is binary, damaged or in several encodings, or its encoding cannot be recognised.
    """
    scanned = scan(path, end)
    if scanned.nul is not None:
        raise with_nul(path, scanned.nul, name, end)
    if scanned.others.first is not None:
        return mixed(path, name, scanned) or _legacy(path, name, head, end, bytes(scanned.others.sample))
    if scanned.utf8.first is None and scanned.escapes:
        return _seven_bits(path) or Reading("utf-8")
    if scanned.surrogates is not None:
        where = f"first in line {line_at(path, 'utf-8', scanned.surrogates):,}, byte {scanned.surrogates:,}"
        return Reading(
            "cesu-8", (Note("cesu-8", f"has characters such as emoji in CESU-8 ({where}), and is read as such"),)
        )
    return _doubled(path, end, bytes(scanned.utf8.sample)) or Reading("utf-8")


def _legacy(path: Path, name: str, head: bytes, end: int, sample: bytes) -> Reading:
    ranked = guesses(sample)
    best = ranked[0]
    wide = _wide_without_nul(head, best)
    if wide is not None:
        return Reading(wide, (read_as(wide),))
    controls = sum(sample.count(byte) for byte in _CONTROLS)
    is_text = best.is_text and controls <= _MOST_CONTROLS * len(sample)
    several = several_encodings(path, name, end, best)
    if several is not None:
        raise several
    if not is_text or _is_ebcdic(head):
        likely = ["cp500"] if _is_ebcdic(head) else [guess.encoding for guess in ranked if guess.nats > _HOPELESS]
        which = f", or name its encoding: --encoding={likely[0]}" if likely else ""
        raise DataError(
            f"{name} is a binary file, or a text in an encoding that could not be recognised; give a text file, saved "
            f"as UTF-8{which}" + (f" (or {', '.join(likely[1:])})" if likely[1:] else "")
        )
    return Reading(best.encoding, (read_as(best.encoding) if best.share >= SURE else _unsure(sample, ranked),))


def read_as(encoding: str) -> Note:
    """Return the note for a file in another encoding than UTF-8."""
    return Note(
        f"read as {encoding}",
        f"is not UTF-8; it is read as {title_of(encoding)}. If letters come out wrong, save it as UTF-8, or name its "
        "encoding with --encoding",
    )


def _unsure(sample: bytes, ranked: list[Guess]) -> Note:
    best, next_best = ranked[:2]
    one, other = _example(sample, best.encoding, next_best.encoding)
    readings = f"it reads {one!r}, as {title_of(next_best.encoding)} (about {100 * next_best.share:.0f} %) {other!r}"
    return Note(
        f"unsure of {best.encoding}",
        f"is not UTF-8; it is read as {title_of(best.encoding)}, which is about {100 * best.share:.0f} % sure: "
        f"{readings}. Name the right one: --encoding={best.encoding} or --encoding={next_best.encoding}",
    )


def _example(sample: bytes, one: str, other: str) -> tuple[str, str]:
    """Return the first word that two encodings decode differently, as both decode it."""
    for line in sample.splitlines():
        words = [word for word in line.split(b" ") if not word.isascii()]
        for word in words:
            first, second = (word.decode(encoding, "replace") for encoding in (one, other))
            if first != second:
                return first[:24], second[:24]
    return "", ""


def _wide_without_nul(head: bytes, best: Guess) -> str | None:
    """Return the UTF-16 encoding of a text without ASCII if that is likelier than the best guess, else None."""
    candidates = []
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = head[: len(head) // 2 * 2].decode(encoding)
        except UnicodeDecodeError:
            continue
        if text:
            candidates.append((_east_asian_nats(text), encoding))
    nats, encoding = max(candidates, default=(_EAST_ASIAN_NATS, ""))
    return encoding if nats > max(_EAST_ASIAN_NATS, 2 * best.nats) else None


def _east_asian_nats(text: str) -> float:
    beyond = [character for character in text if not character.isascii()]
    return max(
        sum(east_asian_likelihood(character, language) for character in beyond) / max(1, len(beyond))
        for language in EAST_ASIAN
    )


def _is_ebcdic(head: bytes) -> bool:
    text = head.decode("cp500")
    return text.count(" ") > 0.08 * len(text) and sum(
        character.isascii() and (character.isalnum() or character == " ") for character in text
    ) > 0.85 * len(text)


def _seven_bits(path: Path) -> Reading | None:
    """Return the encoding of an ASCII file with escape sequences, such as ISO-2022-JP, or None."""
    for encoding in _ESCAPING:
        try:
            beginning = next(pieces := decoded(path, encoding, str(path)))
            for _ in pieces:
                pass
        except (DataError, StopIteration):
            continue
        if not beginning.isascii() and _east_asian_nats(beginning) > _EAST_ASIAN_NATS:
            return Reading(encoding, (read_as(encoding),))
    return None


def _doubled(path: Path, end: int, sample: bytes) -> Reading | None:
    """Return the reading of UTF-8 that was taken for another encoding and saved as UTF-8 again; None if it was not."""
    text = sample.decode("utf-8", "ignore")
    beyond = sum(not character.isascii() for character in text)
    for between in _BETWEEN:
        undone: list[str] = []
        undoing(between, undone)(text)
        mended = sum(map(len, undone))
        if mended < _FEWEST_DOUBLED:
            continue
        place = _first_doubled(path, end, between)
        where = f"first in line {line_at(path, 'utf-8', place):,}, byte {place:,}: {undone[0].strip()[:16]!r}"
        what = f"UTF-8 that was taken for {title_of(between)} and saved as UTF-8 again ({where})"
        share = sum(len(piece.encode()) for piece in undone) / beyond
        if share > _ALL_DOUBLED or (share > _MANY_DOUBLED and mended >= _FEWEST_IN_A_MIXTURE):
            mixed_with = "" if share > _ALL_DOUBLED else ", and UTF-8 that was not"
            return Reading(TWICE + between, (Note("doubled", f"is {what}{mixed_with}; this is undone"),))
        note = f"has {what}; it is left as it is, and --encoding={TWICE}{between} undoes this"
        return Reading("utf-8", (Note("partly doubled", note),))
    return None


def _first_doubled(path: Path, end: int, between: str) -> int:
    """Return the offset of the first byte beyond ASCII in a line that was taken for another encoding."""
    undo = undoing(between)
    for place, block in blocks_of_lines(path, end):
        for line in block.splitlines(keepends=True):
            text = line.decode("utf-8", "ignore")
            if undo(text) != text:
                return place + next(at for at, byte in enumerate(line) if byte >= 0x80)
            place += len(line)
    return 0


def doubts(path: Path, encoding: str, end: int) -> tuple[Note, ...]:
    """Return notes on why the encoding that the user named may be wrong.

    Args:
        path: The file.
        encoding: The encoding.
        end: The end of the text, in bytes.
    """
    if width_of(encoding) > 1 or not is_known(encoding):
        return ()
    lines, utf8 = Lines(), True
    for place, block in blocks_of_lines(path, min(end, 16 * SAMPLE_BYTES)):
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            utf8 = False
        for line in block.splitlines(keepends=True):
            lines.add(line, place)
    sample = bytes(lines.sample)
    if not sample:
        return ()
    if utf8:
        return (Note("is UTF-8", f"is valid UTF-8, but is read as {title_of(encoding)}, as --encoding says"),)
    best = guesses(sample)[0]
    one, other = _example(sample, encoding, best.encoding)
    if best.share < SURE or not best.is_text or one == other or best.nats < nats_of(sample, encoding) + _WORTH_A_WORD:
        return ()
    words = f"is read as {title_of(encoding)}, as --encoding says, where it reads {one!r}; it looks like "
    return (Note("doubted", f"{words}{title_of(best.encoding)}, where it would read {other!r}"),)
