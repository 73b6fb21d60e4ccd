"""Passages of a text that occur, letter by letter, in the training text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quillgpt.trace.suffix_array import SuffixArray

Kind = Literal["copied", "close", "new"]


STRIDE = 16
"""Characters between those that are searched first."""


class EncodedText:
    """A text, in characters and in UTF-8.

    Attributes:
        text: The text.
        content: Its bytes in UTF-8.
        offsets: The byte at which each character begins, and the number of bytes, (characters + 1,).
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.content = text.encode("utf-8", "surrogatepass")
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(widths)]).astype(np.int64)


@dataclass(frozen=True)
class Matches:
    """Maximal matches: passages that occur in the training text, and would not if they were longer on either side.

    Both starts and ends ascend.

    Attributes:
        starts: Their first characters, (matches,).
        ends: The characters after their last ones, (matches,).
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def at_least(self, characters: int) -> Matches:
        """Return the matches of at least so many characters."""
        long = self.ends - self.starts >= characters
        return Matches(self.starts[long], self.ends[long])


def maximal_matches(text: EncodedText, index: SuffixArray, least: int) -> Matches:
    """Return the maximal matches of at least `least` characters."""
    starts = np.arange(len(text.text), dtype=np.int64)
    ends = np.zeros(len(starts), dtype=np.int64)

    def search(some: NDArray[np.int64]) -> None:
        reached = text.offsets[some] + index.longest_matches(text.content, text.offsets[some])
        # A match may end with a part of a character; it counts up to the character before.
        ends[some] = np.searchsorted(text.offsets, reached, side="right") - 1

    # From the next character on, at least the rest of a match occurs: ends never fall, and rise where a match begins.
    # So between two characters with the same end, every character has it, and most of a long copy need not be searched.
    search(starts[::STRIDE])
    before = starts // STRIDE * STRIDE
    after = before + STRIDE
    is_known = after < len(starts)
    is_known[is_known] = ends[before[is_known]] == ends[after[is_known]]
    ends[is_known] = ends[before[is_known]]
    search(starts[~is_known])
    begins = np.diff(ends, prepend=0) > 0
    return Matches(starts[begins], ends[begins]).at_least(least)


def cover(matches: Matches) -> list[tuple[int, int]]:
    """Return the characters that matches cover as few passages that do not overlap.

    Each passage is a match or, where the one before covers its beginning, the rest of one.
    """
    passages: list[tuple[int, int]] = []
    waiting = list(zip(matches.starts.tolist(), matches.ends.tolist(), strict=True))
    reached = place = 0
    while place < len(waiting):
        start = max(waiting[place][0], reached)
        # The last match that begins by then also ends last.
        while place + 1 < len(waiting) and waiting[place + 1][0] <= start:
            place += 1
        reached = waiting[place][1]
        passages.append((start, reached))
        place += 1
    return passages


def longest_around(matches: Matches, characters: int) -> NDArray[np.int64]:
    """Return the length of the longest match around each character, 0 where there is none, (characters,)."""
    longest = np.zeros(characters, dtype=np.int64)
    for start, end in zip(matches.starts.tolist(), matches.ends.tolist(), strict=True):
        np.maximum(longest[start:end], end - start, out=longest[start:end])
    return longest
