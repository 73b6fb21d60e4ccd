"""Sums of losses over the units of a text: documents, or blocks of it.

Tokens of one unit depend on each other, so standard errors compare units and not tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.document_ends import DocumentEnds
from quillgpt.evaluation.uncertainty import Estimate, Ratio, estimate

Unit = Literal["document", "block"]

FIRST_ROOM = 1 << 14
"""Units that there is room for at first."""


@dataclass(frozen=True)
class UnitSums:
    """Sums over the counted targets of each unit, in the order of the split, (units,) each.

    Attributes:
        unit: What a unit is.
        losses: Negative log-likelihoods, in nats.
        tokens: Number of targets.
        bytes: Bytes of text that the targets stand for.
        places: Sum of the targets' places in the split: with `tokens` it tells whether two models have predicted the
            same ones.
        ends: Number of targets that end a document.
    """

    unit: Unit
    losses: NDArray[np.float64]
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    places: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    def estimate(self) -> Estimate:
        """Estimate the mean loss of a token."""
        return estimate_over(self.unit, Ratio(self.losses, self.tokens))


def in_order(parts: Sequence[UnitSums]) -> UnitSums:
    """Return the units of parts of a split in the order of the split, as blocks: a document may be in several parts."""
    fields = ("losses", "tokens", "bytes", "places", "ends")
    losses, tokens, byte_counts, places, ends = (
        np.concatenate([getattr(part, name) for part in parts]) for name in fields
    )
    order = np.argsort(places / tokens, kind="stable")
    return UnitSums("block", losses[order], tokens[order], byte_counts[order], places[order], ends[order])


def estimate_over(unit: Unit, ratio: Ratio) -> Estimate:
    """Estimate a ratio of sums over units: over documents one by one, over blocks in stretches of neighbours."""
    return estimate(ratio.in_stretches() if unit == "block" else ratio)


class UnitAdder:
    """Adds up targets by their unit, in one pass from the start of a split to its end."""

    def __init__(self, unit: Unit) -> None:
        self._unit: Unit = unit
        self._length, self._last = 0, -1
        # Arrays with room for more units. Were small ones kept from each batch, the system's memory would lie in pieces
        # between them, too small for the next batch.
        self._sums = np.zeros(FIRST_ROOM, dtype=np.float64)
        self._counts = np.zeros((4, FIRST_ROOM), dtype=np.int64)

    def add(self, numbers: NDArray[np.int64], losses: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        """Add targets.

        Args:
            numbers: The unit of each target, ascending, none below those of an earlier call, (n,).
            losses: Their negative log-likelihoods, (n,).
            counts: For each, 1, its bytes, its place, and whether it ends a document, (4, n).
        """
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        first = self._length - (int(numbers[0]) == self._last)  # the last unit may go on
        stop = first + len(starts)
        while stop > len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)], axis=1)
        self._sums[first:stop] += np.add.reduceat(losses, starts)
        self._counts[:, first:stop] += np.add.reduceat(counts, starts, axis=1)
        self._length, self._last = stop, int(numbers[-1])

    def total(self) -> UnitSums:
        """Return the sums."""
        return UnitSums(self._unit, self._sums[: self._length], *self._counts[:, : self._length])


class DocumentNumbers:
    """Numbers the documents of targets, in one pass from the start of a split to its end.

    Documents that have no target are not counted, so nothing is read but the targets, and what lies between two of them
    as far as the next end.
    """

    def __init__(self, ends: DocumentEnds) -> None:
        self._ends = ends
        self._number = 0
        self._next = 0  # the first token that has not been looked at

    def of(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the document of each target, and whether the target ends it.

        Args:
            places: Places of the targets in the split, ascending, beyond those of earlier calls, (n,).
        """
        numbers, are_ends = np.empty_like(places), np.empty(len(places), dtype=np.bool_)
        breaks = [0, *(1 + np.flatnonzero(np.diff(places) != 1)).tolist(), len(places)]
        for begin, end in pairwise(breaks):
            first, stop = int(places[begin]), int(places[end - 1]) + 1
            self._number += self._ends.any_within(self._next, first)
            ends = self._ends.within(first, stop)
            numbers[begin:end] = self._number + np.cumsum(ends) - ends
            are_ends[begin:end] = ends
            self._number, self._next = self._number + int(ends.sum()), stop
        return numbers, are_ends


class TextSums:
    """Adds up the targets of an evaluation by document, where documents are known, and by block.

    Args:
        ends: Where the documents of the split end; None: unknown.
        block_size: Targets of a block.
    """

    def __init__(self, ends: DocumentEnds | None, block_size: int) -> None:
        self._block_size = block_size
        self._blocks = UnitAdder("block")
        self._documents = None if ends is None else (DocumentNumbers(ends), UnitAdder("document"))

    def add(self, places: NDArray[np.int64], losses: NDArray[np.float64], byte_counts: NDArray[np.int64]) -> None:
        """Add targets: their places in the split, ascending, their losses and the bytes that they stand for, (n,)."""
        counts = np.stack([np.ones_like(places), byte_counts, places, np.zeros_like(places)])
        if self._documents is not None:
            documents, adder = self._documents
            numbers, counts[3] = documents.of(places)
            adder.add(numbers, losses, counts)
        self._blocks.add((places - 1) // self._block_size, losses, counts)

    def total(self) -> UnitSums:
        """Return the sums over documents, or over blocks if there are fewer than two documents."""
        if self._documents is not None and len(documents := self._documents[1].total()) > 1:
            return documents
        return self._blocks.total()
