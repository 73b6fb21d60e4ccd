"""Cuts a stream of text into sentences, as soon as each is complete."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

LONGEST = 400
"""Characters after which a sentence is cut, at a comma or a space if there is one: about 25 seconds of speech."""

AHEAD = 24
"""Characters after the end of a sentence that are read before it counts as the end.

More than the longest match of `ENDS` with the text that `_goes_on` looks at. So the sentences do not depend on the
pieces in which the text comes.
"""

ENDS = re.compile(
    r"""[.!?…‽؟۔।॥።։]{1,8}["'”’»›)\]}]{0,4}(?=\s)  # full stops of scripts that write spaces
    |   [。！？｡．]{1,8}["'”’»』」）】》〉]{0,4}          # and of those that do not
    |   \n[ \t\r]{0,8}\n                             # an empty line
    """,
    re.VERBOSE,
)
PAUSES = re.compile(r"[,;:—–،؛]\s|[、，；：\n]")
SPACE = re.compile(r"\s")

LAST_WORD = re.compile(r"[^\s\"'“‘«(\[{]*$")
LONGEST_WORD = 24
INITIALS = re.compile(r"(?:\w\.)+\w|[A-HJ-Z]|[А-Я]")
"""`J` of J. S. Bach, `e.g`; a single I is a word."""

NUMBERING = re.compile(r"\s*\(?(?:\d{1,3}|[ivxIVX]{1,4})")
"""`1` of a list whose first line is `1. Bread`."""

WORDS_WITH_A_STOP = """
mr mrs ms dr prof st sr jr rev hon gen col capt lt sgt gov sen rep vs etc cf viz approx dept est fig figs no nos vol
vols pp ed eds ch sec al jan feb mar apr jun jul aug sep sept oct nov dec inc ltd co corp bros messrs mme mlle hr fr nr
bzw usw vgl ca evtl ggf str sog tel abb bd s p art av sra srta ud uds núm pág
"""
ABBREVIATIONS = frozenset(WORDS_WITH_A_STOP.split())


def sentences(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of a text that comes in pieces; joined, they are the text."""
    stream = SentenceStream()
    for piece in pieces:
        yield from stream.push(piece)
    yield from stream.finish()


class SentenceStream:
    """Collects pieces of a text and returns its sentences, with all their spaces."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, piece: str) -> list[str]:
        """Add a piece of text, and return the sentences that are complete."""
        self._text += piece
        return self._take(is_all=False)

    def finish(self) -> list[str]:
        """Return the rest; the text has ended, and another one may begin."""
        rest = self._take(is_all=True)
        if self._text:
            rest.append(self._text)
        self._text = ""
        return rest

    def _take(self, *, is_all: bool) -> list[str]:
        taken: list[str] = []
        start = 0
        while end := _end(self._text[start : start + LONGEST + AHEAD], is_all=is_all):
            taken.append(self._text[start : start + end])
            start += end
        self._text = self._text[start:]
        return taken


def spoken_form(sentence: str) -> str:
    """Return a sentence as a voice should read it, or an empty string if it has no letter, digit or symbol.

    Control characters, and halves of characters, are spaces. Digits of all scripts are 0 to 9, which every voice reads.
    """
    text = " ".join("".join(map(_spoken_letter, sentence)).split())
    return text if any(letter.isalnum() or unicodedata.category(letter)[0] == "S" for letter in text) else ""


def _spoken_letter(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    return " " if category in ("Cc", "Cs", "Co", "Cn") else letter


def _end(window: str, *, is_all: bool) -> int:
    """Return the length of the first sentence; 0 if more text may change it, or if the rest is one sentence."""
    certain = min(LONGEST, len(window) if is_all else len(window) - AHEAD)
    for match in ENDS.finditer(window):
        if match.end() > certain:
            break
        if not _goes_on(window, match):
            return match.end()
    return _cut(window[:LONGEST]) if len(window) > LONGEST and certain == LONGEST else 0


def _goes_on(window: str, match: re.Match[str]) -> bool:
    """Return whether a sentence goes on after what looks like its end."""
    if match[0][0] == "\n" or match.end() == len(window):
        return False
    following = window[match.end() : match.end() + AHEAD // 2]
    letter = next((letter for letter in following if letter.isalnum()), "")
    if letter.islower():
        return True
    if match[0][0] != "." or match[0].startswith(".."):
        return False
    before = window[max(0, match.start() - LONGEST_WORD) : match.start()]
    word = (LAST_WORD.search(before) or match)[0]
    return bool(
        word.lower() in ABBREVIATIONS
        or INITIALS.fullmatch(word)
        or NUMBERING.fullmatch(window[: match.start()].rsplit("\n", 1)[-1])
    )


def _cut(text: str) -> int:
    """Return where to cut a text that has no end of a sentence."""
    for pattern in (PAUSES, SPACE):
        places = [match.end() for match in pattern.finditer(text)]
        if places and places[-1] > LONGEST // 4:
            return places[-1]
    return len(text)
