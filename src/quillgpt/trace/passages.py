"""The passages of a text that are copied from the training text or close to it, each with one place there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quillgpt.trace.matching import EncodedText, Kind, cover, maximal_matches
from quillgpt.trace.near_copies import SEED, NearCopy, near_copies
from quillgpt.trace.suffix_array import SuffixArray


@dataclass(frozen=True)
class Passage:
    """A passage of a text that comes from the training text.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        kind: `copied` or `close`.
        position: The byte of the training text that its first character came from: of the first occurrence if it is
            copied, about the one that it is aligned with if it is close.
        occurrences: How often it occurs or, if it is close, the passage that it is aligned with.
        likeness: 1.0 if it is copied, else that of the alignment.
    """

    start: int
    end: int
    kind: Kind
    position: int
    occurrences: int
    likeness: float


def passages(text: EncodedText, index: SuffixArray, least: int) -> list[Passage]:
    """Return the copied and close passages of a text in order; they do not overlap.

    A maximal match of at least `least` characters is copied. Alignments of at least as many characters make what else
    is in them close, the longest first.
    """
    seeds = maximal_matches(text, index, min(SEED, least))
    found = _copied(text, index, cover(seeds.at_least(least)))
    is_free = np.ones(len(text.text), dtype=np.bool_)
    for passage in found:
        is_free[passage.start : passage.end] = False
    for near in near_copies(text, index, seeds, least):
        if not is_free[near.start : near.end].any():
            continue
        occurrences = len(index.find_all(index.text[near.source_start : near.source_end].tobytes()))
        for start, end in _runs(is_free, near):
            position = near.source_of(start, text)
            found.append(Passage(start, end, "close", position, occurrences, near.likeness))
        is_free[near.start : near.end] = False
    return sorted(found, key=lambda passage: passage.start)


def _copied(text: EncodedText, index: SuffixArray, covered: list[tuple[int, int]]) -> list[Passage]:
    starts, ends = text.offsets[np.array(covered, dtype=np.int64).reshape(-1, 2)].T
    firsts, stops = index.ranges(text.content, starts, ends - starts)
    return [
        Passage(start, end, "copied", int(index.suffixes[first:stop].min()), stop - first, 1.0)
        for (start, end), first, stop in zip(covered, firsts.tolist(), stops.tolist(), strict=True)
    ]


def _runs(is_free: NDArray[np.bool_], near: NearCopy) -> list[tuple[int, int]]:
    """Return the runs of free characters within an alignment."""
    inside = np.concatenate([[False], is_free[near.start : near.end], [False]])
    edges = near.start + np.flatnonzero(inside[1:] != inside[:-1])
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
