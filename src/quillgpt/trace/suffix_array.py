"""A suffix array: every position of a text, in the order of the text that begins there. Finds any string in it.

Manber and Myers, "Suffix arrays: a new method for on-line string searches" (1993). pydivsufsort sorts; the search is a
binary search that takes all positions of a query at once, and compares eight bytes at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quillgpt.extras import import_extra

PADDING = 16
"""Zero bytes after the text in its file, so that eight bytes can be read from every position."""

WORD = 8
POWERS_OF_256 = np.array([1 << (8 * power) for power in range(WORD)], dtype=np.uint64)
LARGEST_BYTES = (1 << 31) - 1 - PADDING
"""Positions have 32 bits."""

QUERIES_AT_ONCE = 1 << 16


def sort_suffixes(text: Path, size: int, path: Path) -> None:
    """Sort the suffixes of a text, and write their positions as int32.

    Needs four bytes of memory for each byte of the text, which itself is memory-mapped.

    Args:
        text: A file with the text and at least `PADDING` zero bytes.
        size: Bytes of the text.
        path: The file to write.

    Raises:
        UserError: pydivsufsort is not installed.
    """
    library = import_extra("pydivsufsort", extra="trace", purpose="quill trace")
    # The library takes only memory that may be written to; it does not write, so nothing is copied.
    content = np.memmap(text, dtype=np.uint8, mode="c", shape=(size,))
    positions = library.divsufsort(np.asarray(content))
    positions.astype("<i4", copy=False).tofile(path)


@dataclass(frozen=True)
class SuffixArray:
    """A text with its sorted suffixes, memory-mapped.

    Attributes:
        text: Its bytes and `PADDING` zero bytes, (bytes + PADDING,).
        suffixes: Its positions in the order of the suffixes that begin there, (bytes,).
    """

    text: NDArray[np.uint8]
    suffixes: NDArray[np.int32]

    @property
    def size(self) -> int:
        """The number of bytes of the text."""
        return len(self.suffixes)

    def longest_matches(self, query: bytes, starts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many bytes of the query from each start on occur somewhere in the text, (starts,).

        The suffix that shares the longest beginning with a string is one of the two between which it would be sorted.
        """
        asked = _Query(self, query)
        lengths = np.zeros(len(starts), dtype=np.int64)
        for first in range(0, len(starts), QUERIES_AT_ONCE):
            part = starts[first : first + QUERIES_AT_ONCE]
            limits = len(query) - part
            ranks = asked.ranks(part, limits, above=np.zeros(len(part), dtype=np.bool_))
            for neighbours in (ranks - 1, ranks):
                inside = (neighbours >= 0) & (neighbours < self.size)
                shared, _ = asked.compare(neighbours[inside], part[inside], limits[inside])
                own = lengths[first : first + QUERIES_AT_ONCE]  # a view
                own[inside] = np.maximum(own[inside], shared)
        return lengths

    def ranges(
        self, query: bytes, starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where parts of the query are among the sorted suffixes: from `first` to before `stop`, (starts,) each.

        Their difference is how often a part occurs.
        """
        is_stop = np.repeat([False, True], len(starts))
        ranks = _Query(self, query).ranks(np.tile(starts, 2), np.tile(lengths, 2), above=is_stop)
        return ranks[: len(starts)], ranks[len(starts) :]

    def find_all(self, wanted: bytes) -> NDArray[np.int64]:
        """Return the positions of a string in the text in ascending order, (occurrences,)."""
        first, stop = self.ranges(wanted, np.zeros(1, np.int64), np.array([len(wanted)], np.int64))
        return np.sort(self.suffixes[int(first[0]) : int(stop[0])]).astype(np.int64)


class _Query:
    """A string whose parts are compared with suffixes."""

    def __init__(self, array: SuffixArray, query: bytes) -> None:
        self._array = array
        padded = np.frombuffer(query + bytes(PADDING), dtype=np.uint8)
        self._words, self._text_words = _words(padded), _words(array.text)

    def ranks(
        self, starts: NDArray[np.int64], limits: NDArray[np.int64], *, above: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Return how many suffixes are sorted before each part of the query.

        Args:
            starts: Where the parts begin, (starts,).
            limits: Their lengths in bytes, (starts,).
            above: Whether suffixes that begin with the part count, too, (starts,).
        """
        size = self._array.size
        low, high = np.zeros(len(starts), dtype=np.int64), np.full(len(starts), size, dtype=np.int64)
        # All suffixes between two that share some bytes with the part share them too, so these are not compared again.
        of_low, of_high = np.zeros_like(low), np.zeros_like(low)
        for _ in range(size.bit_length()):
            middle = np.minimum((low + high) >> 1, size - 1)
            shared, is_before = self.compare(middle, starts, limits, known=np.minimum(of_low, of_high))
            is_before |= above & (shared >= limits)
            is_before &= low < high
            is_after = ~is_before & (low < high)
            low, of_low = np.where(is_before, middle + 1, low), np.where(is_before, shared, of_low)
            high, of_high = np.where(is_after, middle, high), np.where(is_after, shared, of_high)
        return low

    def compare(
        self,
        ranks: NDArray[np.int64],
        starts: NDArray[np.int64],
        limits: NDArray[np.int64],
        known: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return how many bytes sorted suffixes share with parts of the query, and whether they are sorted before them.

        Args:
            ranks: The suffixes, by their rank, (parts,).
            starts: Where the parts begin, (parts,).
            limits: Their lengths in bytes, (parts,).
            known: Bytes that they are known to share, (parts,).
        """
        positions = self._array.suffixes[ranks].astype(np.int64)
        most = np.minimum(limits, self._array.size - positions)
        shared = np.zeros_like(starts) if known is None else np.minimum(known, most)
        # A suffix that ends within the part is before it.
        is_before = most < limits
        left = np.flatnonzero(shared < most)
        while left.size:
            at = shared[left]
            of_text, of_query = self._text_words[positions[left] + at], self._words[starts[left] + at]
            differ = of_text != of_query
            equal_bytes = np.where(differ, _leading_zero_bytes(of_text ^ of_query), WORD)
            reached = at + equal_bytes
            decided = differ & (reached < most[left])
            is_before[left[decided]] = (of_text < of_query)[decided]
            shared[left] = np.minimum(reached, most[left])
            left = left[~differ & (reached < most[left])]
        return shared, is_before


def _words(content: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the eight bytes from each position on as a number that is sorted as they are; nothing is copied."""
    return np.ndarray((len(content) - WORD + 1,), dtype=">u8", buffer=content, strides=(1,))


def _leading_zero_bytes(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    return WORD - np.searchsorted(POWERS_OF_256, values.astype(np.uint64), side="right").astype(np.int64)
