"""Replaces names, numbers and addresses in chats and mails."""

from __future__ import annotations

import re
from collections import Counter

from quillgpt.text.formats.opened import Tally

ME = "Me"
"""How the messages of the user begin, if the user said who that is."""

PART_OF_A_NAME = re.compile(r"[^\W\d_]{3,}")
"""Shorter parts of names are not looked for within texts."""

ADDRESS = re.compile(
    r"\bhttps?://[^\s<>\"]{1,2000}|\bwww\.[^\s<>\"]{1,2000}|[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
)
NUMBER = re.compile(
    r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b|(?<![\w.,])\+?\(?\d(?:[ ()/.-]{0,2}\d){5,30}(?!\w)"
)
"""An account, or six digits and more: numbers of telephones, cards and houses with their town; also dates."""


class Names:
    """The names that people get in a text.

    Args:
        me: The name of the user, or None.
        hide: Whether the others become `Person 1`, `Person 2` and so on.
    """

    def __init__(self, me: str | None, *, hide: bool) -> None:
        self._me, self._hide = me, hide
        self._shown: dict[str, str] = {}
        self._words: dict[str, str] = {}
        self._pattern: re.Pattern[str] | None = None
        self.met: Counter[str] = Counter()

    def shown(self, name: str) -> str:
        """Return what stands for a name, and remember the name."""
        self.met[name] += 1
        if name not in self._shown:
            if name == self._me:
                self._shown[name] = ME
            else:
                self._shown[name] = f"Person {len(self._shown) + 1 - (self._me in self._shown)}" if self._hide else name
            if self._hide:
                for word in (name, *PART_OF_A_NAME.findall(name)):
                    self._words.setdefault(word, self._shown[name])
            self._pattern = None
        return self._shown[name]

    def clean(self, text: str, tally: Tally) -> str:
        """Return a text without names that were met, numbers and addresses, if they are to be hidden."""
        if not self._hide:
            return text
        text = _replaced(ADDRESS, "<address>", text, "addresses", tally)
        text = _replaced(NUMBER, "<number>", text, "numbers", tally)
        if self._words and self._pattern is None:
            longest_first = sorted(self._words, key=len, reverse=True)
            self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")
        if self._pattern is not None:
            text, count = self._pattern.subn(lambda found: self._words[found[0]], text)
            _count(tally, "names", count)
        return text


def _replaced(pattern: re.Pattern[str], by: str, text: str, what: str, tally: Tally) -> str:
    text, count = pattern.subn(by, text)
    _count(tally, what, count)
    return text


def _count(tally: Tally, what: str, count: int) -> None:
    if count:
        tally.dropped[f"{what} (replaced)"] += count
