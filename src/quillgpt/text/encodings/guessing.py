"""The encoding of a file that no mark names: by which lines are UTF-8, and by what the others read like."""

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
    """Return how a file without a mark is to be read.

    Args:
        path: The file.
        name: What to call it in messages.
        head: Its beginning.
        end: Where its text ends.

    Raises:
        DataError: It is binary, damaged, of several encodings, or of none that can be recognised.
    """
    found = scan(path, end)
    if found.nul is not None:
        raise with_nul(path, found.nul, name, end)
    if found.others.first is not None:
        return mixed(path, name, found) or _legacy(path, name, head, end, bytes(found.others.sample))
    if found.utf8.first is None and found.escapes:
        return _seven_bits(path) or Reading("utf-8")
    if found.surrogates is not None:
        where = f"first in line {line_at(path, 'utf-8', found.surrogates):,}, byte {found.surrogates:,}"
        return Reading("cesu-8", (Note("cesu-8", f"has emoji and the like as CESU-8 ({where}); they are read so"),))
    return _doubled(path, end, bytes(found.utf8.sample)) or Reading("utf-8")


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
        likely = ["cp500"] if _is_ebcdic(head) else [each.encoding for each in ranked if each.nats > _HOPELESS]
        which = f", or name its encoding: --encoding={likely[0]}" if likely else ""
        raise DataError(
            f"{name} is a binary file, or a text in an encoding that could not be recognised; give a text file, saved "
            f"as UTF-8{which}" + (f" (or {', '.join(likely[1:])})" if likely[1:] else "")
        )
    return Reading(best.encoding, (read_as(best.encoding) if best.share >= SURE else _unsure(sample, ranked),))


def read_as(encoding: str) -> Note:
    """Return what is said of a file that is in another encoding than UTF-8."""
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
        f"{readings}. Say what is right: --encoding={best.encoding} or --encoding={next_best.encoding}",
    )


def _example(sample: bytes, one: str, other: str) -> tuple[str, str]:
    """Return the first words beyond ASCII that two encodings read otherwise."""
    for line in sample.splitlines():
        words = [word for word in line.split(b" ") if not word.isascii()]
        for word in words:
            first, second = (word.decode(each, "replace") for each in (one, other))
            if first != second:
                return first[:24], second[:24]
    return "", ""


def _wide_without_nul(head: bytes, best: Guess) -> str | None:
    """Return which UTF-16 a text is in that has no character of ASCII, where that reads better than the best guess."""
    found = []
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = head[: len(head) // 2 * 2].decode(encoding)
        except UnicodeDecodeError:
            continue
        if text:
            found.append((_east_asian_nats(text), encoding))
    nats, encoding = max(found, default=(_EAST_ASIAN_NATS, ""))
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
        each.isascii() and (each.isalnum() or each == " ") for each in text
    ) > 0.85 * len(text)


def _seven_bits(path: Path) -> Reading | None:
    """Return which encoding by escape sequences a file of ASCII is in, if any."""
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
    """Return how a text is read that was taken for another encoding and saved as UTF-8 again; None where it is not."""
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
        share = sum(len(each.encode()) for each in undone) / beyond
        if share > _ALL_DOUBLED or (share > _MANY_DOUBLED and mended >= _FEWEST_IN_A_MIXTURE):
            mixed_with = "" if share > _ALL_DOUBLED else ", and UTF-8 that was not"
            return Reading(TWICE + between, (Note("doubled", f"is {what}{mixed_with}; it is read as it was before"),))
        note = f"has {what}; it is left as it is, and mended with --encoding={TWICE}{between}"
        return Reading("utf-8", (Note("partly doubled", note),))
    return None


def _first_doubled(path: Path, end: int, between: str) -> int:
    """Return the place of the first byte beyond ASCII in a line that was taken for another encoding."""
    undo = undoing(between)
    for place, block in blocks_of_lines(path, end):
        for line in block.splitlines(keepends=True):
            text = line.decode("utf-8", "ignore")
            if undo(text) != text:
                return place + next(at for at, byte in enumerate(line) if byte >= 0x80)
            place += len(line)
    return 0


def doubts(path: Path, encoding: str, end: int) -> tuple[Note, ...]:
    """Return what speaks against the encoding that a person has named.

    Args:
        path: The file.
        encoding: Its name.
        end: Where the text ends.
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
