"""Learns the merges of byte-pair encoding from counted words, with numpy: each step changes only where its pair stands.

The `tokenizers` library is the reference: tests compare vocabularies and merges with its trainer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

FEWEST_OCCURRENCES = 2
"""A pair that is rarer becomes no token."""

_EDGE = -1  # before and after each word
_PAIR_BITS = 32

Places = NDArray[np.int64]


class MergeLearner:
    """Learns merges from words: the most frequent pair of neighbours becomes a token, again and again.

    Of pairs that are equally frequent, the one with the smaller ids goes first.

    Args:
        words: How often each word occurs.
        ids: The id of each byte, (256,).
    """

    def __init__(self, words: Mapping[bytes, int], ids: NDArray[np.int64]) -> None:
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        ends = np.cumsum(lengths + 1)
        is_edge = np.zeros(int(lengths.sum()) + len(words) + 1, np.bool_)
        is_edge[0] = True
        is_edge[ends] = True
        # The tokens of all words in a row, with an edge between words; a place is an index in it. What a merge takes
        # away stays, and is left out by the links between neighbours.
        self._tokens = np.full(len(is_edge), _EDGE, np.int32)
        self._tokens[~is_edge] = ids[np.frombuffer(b"".join(words), np.uint8)]
        self._next = np.arange(1, len(is_edge) + 1, dtype=np.int32)
        self._previous = np.arange(-1, len(is_edge) - 1, dtype=np.int32)
        self._counts_of_places = np.zeros(len(is_edge), np.int64)
        self._counts_of_places[~is_edge] = np.repeat(np.fromiter(words.values(), np.int64, len(words)), lengths)
        self._counts: dict[int, int] = {}
        self._places: dict[int, Places] = {}
        self._queue: list[tuple[int, int]] = []
        self._add(self._with_pair(np.arange(len(is_edge) - 1)))

    def merge(self, new: int, pair: tuple[int, int]) -> None:
        """Replace a pair by a token."""
        first, second = pair
        key = first << _PAIR_BITS | second
        places = self._places.pop(key)
        places = places[self._tokens[places] == first]
        places = places[self._tokens[self._next[places]] == second]
        if first == second:
            places = self._without_overlaps(places)
        rights = self._next[places]
        befores = self._previous[places]
        self._subtract(np.unique(np.concatenate([befores, places, rights])))
        del self._counts[key]
        self._tokens[places] = new
        self._tokens[rights] = _EDGE
        afters = self._next[rights]
        self._next[places] = afters
        self._previous[afters] = places
        befores = self._previous[places]  # a pair before this one may have become a token as well
        self._add(self._with_pair(np.unique(np.concatenate([befores, places]))))

    def most_frequent(self) -> tuple[int, int] | None:
        """Return the most frequent pair, or None if none is frequent enough."""
        while self._queue:
            negative, key = heappop(self._queue)
            count = self._counts.get(key, 0)
            if count == -negative:
                return divmod(key, 1 << _PAIR_BITS) if count >= FEWEST_OCCURRENCES else None
            if count >= FEWEST_OCCURRENCES:  # it was more frequent when it was put there
                heappush(self._queue, (-count, key))
        return None

    def _with_pair(self, places: Places) -> Places:
        """Return the places of tokens that have a neighbour after them."""
        has_pair = (self._tokens[places] != _EDGE) & (self._tokens[self._next[places]] != _EDGE)
        kept: Places = places[has_pair]
        return kept

    def _keys(self, places: Places) -> NDArray[np.int64]:
        keys: NDArray[np.int64] = self._tokens[places].astype(np.int64) << _PAIR_BITS | self._tokens[self._next[places]]
        return keys

    def _grouped(self, places: Places) -> Iterator[tuple[int, int, Places]]:
        """Yield each pair that stands at the places, how often it occurs there, and its places in order."""
        keys = self._keys(places)
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = np.add.reduceat(self._counts_of_places[places], starts) if len(starts) else starts
        bounds = [*starts.tolist(), len(keys)]
        for index, (key, count) in enumerate(zip(keys[starts].tolist(), sums.tolist(), strict=True)):
            yield key, count, places[bounds[index] : bounds[index + 1]]

    def _subtract(self, places: Places) -> None:
        for key, count, _ in self._grouped(self._with_pair(places)):
            self._counts[key] -= count

    def _add(self, places: Places) -> None:
        for key, count, there in self._grouped(places):
            total = self._counts[key] = self._counts.get(key, 0) + count
            known = self._places.get(key)
            self._places[key] = there if known is None else np.union1d(known, there)
            heappush(self._queue, (-total, key))

    def _without_overlaps(self, places: Places) -> Places:
        """Return every second place of each run of overlapping pairs of one token, from the left."""
        follows = np.zeros(len(places), np.bool_)
        follows[1:] = self._next[places[:-1]] == places[1:]
        index = np.arange(len(places))
        run_starts = np.maximum.accumulate(np.where(follows, 0, index))
        kept: Places = places[(index - run_starts) % 2 == 0]
        return kept
