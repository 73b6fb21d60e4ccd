"""Which windows of a split an evaluation reads, and which of their targets count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quillgpt.data.batches import Offsets, spread_places
from quillgpt.errors import ConfigError, DataError


@dataclass(frozen=True)
class WindowBatch:
    """Windows of equal length that are computed at once.

    Attributes:
        offsets: Where they begin in the split, ascending, (B,).
        length: Inputs of each window.
        counted: How many of each window's targets count: its last ones.
    """

    offsets: Offsets
    length: int
    counted: int

    @property
    def positions(self) -> NDArray[np.int64]:
        """Places of the counted targets in the split, (B, counted)."""
        return self.offsets[:, None] + np.arange(self.length - self.counted + 1, self.length + 1)


@dataclass(frozen=True)
class Contexts:
    """How many tokens the model sees before a target.

    Attributes:
        shortest: The fewest; with a stride, after the first window.
        longest: The most.
        mean: The mean over all counted targets.
    """

    shortest: int
    longest: int
    mean: float


@dataclass(frozen=True)
class Windows:
    """The windows of an evaluation, in the order of the split.

    Without a stride they are the whole non-overlapping blocks: floor((tokens - 1) / block_size) of them. With a stride,
    each window begins `stride` tokens after the one before it, and its last `stride` targets count. The first window
    counts whole and the last one may be shorter, so every token but the first is counted exactly once.

    Attributes:
        token_count: Tokens of the split.
        block_size: Inputs of a window.
        stride: Tokens from one window to the next; None: non-overlapping blocks.
        chosen: Numbers of the windows that are read, ascending; None: all of them.
    """

    token_count: int
    block_size: int
    stride: int | None = None
    chosen: NDArray[np.int64] | None = None

    def check(self) -> None:
        """Check that there is something to predict, and that windows leave nothing out between them.

        Raises:
            ConfigError: The stride is larger than a window.
            DataError: The split is shorter than one block; with a stride, than two tokens.
        """
        if self.step > self.block_size:
            raise ConfigError(
                f"stride = {self.stride:,} is larger than a window of {self.block_size:,} tokens, so tokens between "
                f"two windows would be left out; give at most {self.block_size:,}"
            )
        if not self.in_split:
            needed = f"one block of the model needs {self.block_size + 1:,}" if self.stride is None else "2 are needed"
            raise DataError(f"the split has {self.token_count:,} tokens; {needed}. Evaluate on a longer text")

    def spread(self, count: int, seed: int) -> Windows:
        """Return `count` of the windows, one at random from each of `count` equal parts of the split."""
        return Windows(self.token_count, self.block_size, self.stride, spread_places(self.in_split, count, seed))

    def in_parts(self, count: int) -> list[Windows]:
        """Return all windows as parts, each of which has windows from all over the split."""
        if count == 1:
            return [self]
        numbers = np.arange(len(self), dtype=np.int64) if self.chosen is None else self.chosen
        return [replace(self, chosen=numbers[first::count]) for first in range(count)]

    @property
    def step(self) -> int:
        """Tokens from one window to the next."""
        return self.stride or self.block_size

    @property
    def in_split(self) -> int:
        """Number of windows in the whole split."""
        targets = self.token_count - 1
        if self.stride is None or targets < 1:
            return max(0, targets) // self.block_size
        return 1 + max(0, -(-(targets - self.block_size) // self.stride))

    @property
    def whole(self) -> bool:
        """Whether all windows of the split are read."""
        return self.chosen is None or len(self.chosen) == self.in_split

    def __len__(self) -> int:
        return self.in_split if self.chosen is None else len(self.chosen)

    @property
    def target_count(self) -> int:
        """Number of targets that count."""
        return sum((stop - first) * counted for first, stop, _, counted in self._runs())

    @property
    def contexts(self) -> Contexts:
        """How many tokens the model sees before a counted target."""
        runs = list(self._runs())
        total = sum((stop - first) * counted * (length - (counted - 1) / 2) for first, stop, length, counted in runs)
        later = runs[1:] if self._number(0) == 0 and len(runs) > 1 else runs
        return Contexts(
            shortest=min(length - counted + 1 for *_, length, counted in later),
            longest=max(length for *_, length, _ in runs),
            mean=total / self.target_count,
        )

    def batch_count(self, batch_size: int) -> int:
        """Return how many batches `batches` yields."""
        return sum(-(-(stop - first) // batch_size) for first, stop, *_ in self._runs())

    def batches(self, batch_size: int) -> Iterator[WindowBatch]:
        """Yield the windows in batches of at most `batch_size`; a window of another shape is a batch of its own."""
        for begin, end, length, counted in self._runs():
            for first in range(begin, end, batch_size):
                stop = min(first + batch_size, end)
                numbers = np.arange(first, stop, dtype=np.int64) if self.chosen is None else self.chosen[first:stop]
                yield WindowBatch(numbers * self.step, length, counted)

    def _runs(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield up to three runs of windows of one shape: first and last place, inputs, and targets that count."""
        count = len(self)
        edges = {0, count} | {
            place for place in (1, count - 1) if 0 < place < count and self._shape(place - 1) != self._shape(place)
        }
        for first, stop in pairwise(sorted(edges)):
            yield first, stop, *self._shape(first)

    def _number(self, place: int) -> int:
        return place if self.chosen is None else int(self.chosen[place])

    def _shape(self, place: int) -> tuple[int, int]:
        """Return the inputs of a window, and the number of its targets that count."""
        number = self._number(place)
        length = min(self.block_size, self.token_count - 1 - number * self.step)
        return length, length if number == 0 else length - (self.block_size - self.step)
