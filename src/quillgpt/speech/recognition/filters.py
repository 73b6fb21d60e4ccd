"""Judges what a recognizer has heard: sounds, invented words, loops, and segments that are probably wrong.

Nothing is decided by one sign alone where people say such things too: "Thank you." stays if it was clearly spoken.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Final

from quillgpt.speech.recognition.inventions import COURTESIES, CREDITS, SOUNDS
from quillgpt.speech.recognition.transcript import Segment

NO_WORDS: Final = "a sound, no words"
OUTSIDE: Final = "outside the recording"
NO_DURATION: Final = "no duration"
INVENTED: Final = "words that recognizers invent where nobody speaks"
LOOP: Final = "the same words in a loop"
REPEATED: Final = "the same words three times or more"
TOO_FAST: Final = "more words than can be said in that time"
NO_SPEECH: Final = "probably no speech"
UNSURE: Final = "low confidence"
SUNG: Final = "sung"

DOUBTFUL_CONFIDENCE, LOW_CONFIDENCE = 0.3, 0.5
"""Below the first, a segment is left out; below the second, it is marked."""

SILENT, PERHAPS_SILENT = 0.6, 0.4
"""Probabilities of no speech: alone with a low confidence, and together with words that are often invented."""

FAILED_CONFIDENCE = math.exp(-1)
"""Whisper takes a result below it for a failure."""

SLOW_SECONDS = 10.0
"""Courtesies are said in less."""

FASTEST = 40
"""Characters per second; fast speakers reach 25. A letter of Chinese, Japanese and Korean counts as two."""

FEWEST_CHARACTERS = 20
"""Shorter segments are not judged by speed, since their time codes are too coarse."""

REPETITIVE = 2.4
"""Whisper takes a text that is compressed further than this for a loop."""

LEAST_REPETITIVE_BYTES = 60
"""Shorter texts are not judged by compression."""

LOOP_TIMES = {1: 10, 2: 6, 3: 5}
"""A phrase of so many words is a loop when it comes this many times in a row within a segment."""

LONGER_LOOP_TIMES = 4
LONGEST_LOOP_WORDS = 30
LOOP_SHARE = 0.5
"""A loop fills at least this share of its segment."""

CYCLES = 3
LONGEST_CYCLE = 4
"""Segments that come again in the same order, at least `CYCLES` times, up to `LONGEST_CYCLE` segments at a time."""

LOOP_CYCLES = 10
"""So many rounds in a row are a loop, whatever their times are."""

SAME_SECONDS, NO_GAP_SECONDS = 0.05, 0.05
"""Nobody says the same words several times at intervals that are equal to this, without a pause."""

END_SECONDS = 0.5
"""How far time codes may be off at the end of a recording."""


class Fate(StrEnum):
    """What becomes of a segment."""

    KEEP = "keep"
    MARK = "mark"
    DOUBT = "doubt"
    DROP = "drop"


@dataclass(frozen=True)
class Judged:
    """A segment, and what is wrong with it.

    Attributes:
        segment: The segment; its times lie within the recording.
        fate: KEEP: nothing is wrong. MARK: it belongs to the text, but look at it. DOUBT: it is probably wrong, and
            belongs to the text only where doubtful segments are wanted. DROP: it has no words.
        reason: What is wrong, in the same words for all segments of a kind; None for KEEP.
    """

    segment: Segment
    fate: Fate = Fate.KEEP
    reason: str | None = None

    def is_text(self, *, keep_doubtful: bool = False) -> bool:
        """Whether the segment belongs to the text."""
        return self.fate in (Fate.KEEP, Fate.MARK) or (keep_doubtful and self.fate is Fate.DOUBT)


def judge(segments: Iterable[Segment], *, duration: float | None = None) -> list[Judged]:
    """Return all segments of a recording with what is wrong with them, in their order.

    Args:
        segments: The segments of a whole recording.
        duration: Seconds of the recording; None: unknown.
    """
    judged = [_judge_alone(segment, duration) for segment in segments]
    for position, is_loop in _repeated(judged):
        before = judged[position]
        if is_loop:
            judged[position] = Judged(before.segment, Fate.DOUBT, LOOP)
        elif before.fate is Fate.KEEP:
            judged[position] = Judged(before.segment, Fate.MARK, REPEATED)
    return judged


def _judge_alone(segment: Segment, duration: float | None) -> Judged:
    fate, reason = _fate(segment, duration)
    return Judged(_within(segment, duration), fate, reason)


def _fate(segment: Segment, duration: float | None) -> tuple[Fate, str | None]:
    text = segment.text.strip()
    if not any(letter.isalnum() for letter in text) or _is_sound(text):
        return Fate.DROP, NO_WORDS
    if duration is not None and segment.start > duration + END_SECONDS:
        return Fate.DOUBT, OUTSIDE
    if not segment.end > segment.start:
        return Fate.DOUBT, NO_DURATION
    no_speech = segment.no_speech or 0.0
    is_courtesy = _is_courtesy(segment.text)
    if _is_credit(segment.text):
        return Fate.DOUBT, INVENTED
    if is_courtesy and (no_speech >= PERHAPS_SILENT or segment.confidence < LOW_CONFIDENCE):
        return Fate.DOUBT, INVENTED
    if _loops(segment):
        return Fate.DOUBT, LOOP
    if _is_too_fast(segment):
        return Fate.DOUBT, TOO_FAST
    if no_speech > SILENT and segment.confidence < FAILED_CONFIDENCE:
        return Fate.DOUBT, NO_SPEECH
    if segment.confidence < DOUBTFUL_CONFIDENCE:
        return Fate.DOUBT, UNSURE
    if segment.confidence < LOW_CONFIDENCE:
        return Fate.MARK, UNSURE
    if any(note in text for note in "♪♫♬♩"):
        return Fate.MARK, SUNG
    if is_courtesy and segment.end - segment.start > SLOW_SECONDS:
        return Fate.MARK, INVENTED  # or the time codes include a pause
    return Fate.KEEP, None


def _within(segment: Segment, duration: float | None) -> Segment:
    """Return a segment with its times within the recording."""
    last = math.inf if duration is None else duration
    start = min(max(segment.start, 0.0), last)
    end = min(max(segment.end, start), last)
    return segment if (start, end) == (segment.start, segment.end) else replace(segment, start=start, end=end)


_BRACKETED = re.compile(r"\s*(?:\[([^\]]*)\]|\(([^)]*)\)|（([^）]*)）|【([^】]*)】|\*+([^*]+)\*+|<([^>]*)>|♪)\s*")
_ROUND = re.compile(r"[(（]")


def _is_sound(text: str) -> bool:
    """Whether a text is only the name of a sound, such as `[Music]`; words in round brackets may have been said."""
    position, names = 0, list[str]()
    while position < len(text):
        match = _BRACKETED.match(text, position)
        if match is None:
            return False
        names.append(plain(" ".join(group for group in match.groups() if group)))
        position = match.end()
    return not _ROUND.search(text) or all(not name or SOUNDS.fullmatch(name) is not None for name in names)


def _is_credit(text: str) -> bool:
    """Whether a text is only credits of subtitles."""
    return CREDITS.fullmatch(plain(text)) is not None or all(map(CREDITS.fullmatch, _sentences(text)))


def _is_courtesy(text: str) -> bool:
    """Whether a text is only courtesies that end videos."""
    known = [CREDITS.fullmatch(sentence) or COURTESIES.fullmatch(sentence) for sentence in _sentences(text)]
    return COURTESIES.fullmatch(plain(text)) is not None or all(known)


def _sentences(text: str) -> list[str]:
    parts = re.split(r"[.!?。！？…]+(?=\s|$)|(?<=[。！？])|\n", text)
    return [sentence for part in parts if (sentence := plain(part))]


def _loops(segment: Segment) -> bool:
    """Whether a segment is mostly one phrase that comes again and again."""
    words = _units(segment.text)
    for length in range(1, min(LONGEST_LOOP_WORDS, len(words) // LONGER_LOOP_TIMES) + 1):
        times = LOOP_TIMES.get(length, LONGER_LOOP_TIMES)
        same = 0  # words that are equal to those one phrase earlier
        for position in range(length, len(words)):
            same = same + 1 if words[position] == words[position - length] else 0
            if same + length >= max(times * length, LOOP_SHARE * len(words)):
                return True
    return (
        segment.compression > REPETITIVE
        and len(segment.text.encode()) >= LEAST_REPETITIVE_BYTES
        and len(set(words)) <= len(words) / 3
    )


def _is_too_fast(segment: Segment) -> bool:
    text = plain(segment.text)
    size = sum(2 if _is_wide(letter) else 1 for letter in text)
    return size >= FEWEST_CHARACTERS and size > FASTEST * (segment.end - segment.start)


def _repeated(judged: Sequence[Judged]) -> Iterator[tuple[int, bool]]:
    """Yield the positions of segments that repeat those before them, and whether their times are those of a loop."""
    spoken = [position for position, one in enumerate(judged) if one.fate is not Fate.DROP]
    texts = [plain(judged[position].segment.text) for position in spoken]
    done = 0
    for start in range(len(spoken)):
        if start < done:
            continue
        for cycle in range(1, LONGEST_CYCLE + 1):
            end = start + cycle
            while end < len(spoken) and texts[end] == texts[end - cycle]:
                end += 1
            if end - start >= CYCLES * cycle:
                run = [judged[position].segment for position in spoken[start:end]]
                is_loop = len(run) >= LOOP_CYCLES * cycle or _has_times_of_a_loop(run, cycle)
                yield from ((position, is_loop) for position in spoken[start + cycle : end])
                done = end
                break


def _has_times_of_a_loop(run: Sequence[Segment], cycle: int) -> bool:
    """Whether repeated segments follow each other without a pause and at equal intervals, or in no time at all."""
    starts = [segment.start for segment in run[::cycle]]
    intervals = [after - before for before, after in pairwise(starts)]
    pauses = [after.start - before.end for before, after in pairwise(run)]
    is_even = max(intervals) - min(intervals) <= SAME_SECONDS and max(pauses) <= NO_GAP_SECONDS
    is_hasty = _is_too_fast(Segment(run[0].start, run[-1].end, " ".join(segment.text for segment in run), confidence=1))
    return is_even or is_hasty or all(segment.compression > REPETITIVE for segment in run)


def plain(text: str) -> str:
    """Return a text in lower case, without punctuation and with single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("i\u0307", "i")  # a Turkish capital İ
    kept = (letter if letter.isalnum() or unicodedata.category(letter)[0] == "M" else " " for letter in folded)
    return " ".join("".join(kept).split())


def _units(text: str) -> list[str]:
    """Return the words of a text; of writing without spaces, the letters."""
    return [unit for word in plain(text).split() for unit in (word if _is_wide(word[0]) else [word])]


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"
