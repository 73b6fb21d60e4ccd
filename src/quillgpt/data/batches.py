"""The order in which training sees the data, as a pure function of seed and iteration.

Each epoch cuts the tokens into windows of block_size, on a grid that it shifts, and shuffles the windows. Window k of
iteration i is item i*B+k of that endless sequence. It is computed and not stored: resuming needs no loader state, and
the number of processes does not matter. Each data set of a mixture is such a sequence of its own, and so is one that is
replayed: `divide_items` says whose items make up a batch.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quillgpt.data.read_ahead import expect_windows, release_windows
from quillgpt.errors import DataError

Tokens = NDArray[np.unsignedinteger]
Offsets = NDArray[np.int64]
"""Where windows begin in a token array, (windows,)."""

FEISTEL_ROUNDS = 6


class Source(NamedTuple):
    """A text that training reads.

    Attributes:
        tokens: The training split of its data set.
        share: Its share of the sequences; those of all sources sum to 1.
    """

    tokens: Tokens
    share: float = 1.0


class Window(NamedTuple):
    """One window of a batch.

    Attributes:
        offset: Where it begins, in tokens.
        source: The index of its source.
    """

    offset: int
    source: int = 0


class TrainingBatches:
    """The global batches of a run, one for each iteration. The windows of a batch are in the order of the sources.

    Args:
        sources: What is read; mostly one text.
        block_size: Inputs in a window.
        batch_size: Windows of a global batch, B.
        seed: Seed of the order.
    """

    def __init__(self, sources: Sequence[Source], *, block_size: int, batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.block_size = block_size
        self._tokens = [source.tokens for source in sources]
        self._shares = [source.share for source in sources]
        self._orders = [WindowOrder(len(tokens), block_size, seed) for tokens in self._tokens]
        self._expected: dict[tuple[int, str], list[Offsets]] = {}

    def batch(self, iteration: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Read the batch of an iteration: inputs and targets, each (B, block_size), int64.

        Args:
            iteration: Its number, counted from 0.
            rows: Which windows of the batch to read.

        The system is asked to read the next iteration's batch meanwhile.

        Raises:
            DataError: The file that the tokens are mapped from has become shorter.
        """
        offsets = self._expected.get((iteration, str(rows))) or self._offsets(iteration, rows)
        parts = [gather(*part, self.block_size) for part in zip(self._tokens, offsets, strict=True)]
        self._expect(iteration + 1, rows)
        if len(parts) == 1:
            return parts[0]
        inputs, targets = zip(*parts, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    def windows(self, iteration: int) -> list[Window]:
        """Return the windows of an iteration's batch, in its order."""
        offsets = self._offsets(iteration, slice(None))
        return [Window(offset, source) for source, part in enumerate(offsets) for offset in part.tolist()]

    def _expect(self, iteration: int, rows: slice) -> None:
        """Have windows of an iteration's batch read, and remember which they are."""
        offsets = self._offsets(iteration, rows)
        self._expected = {(iteration, str(rows)): offsets}
        for tokens, part in zip(self._tokens, offsets, strict=True):
            expect_windows(tokens, part, self.block_size)

    def _offsets(self, iteration: int, rows: slice) -> list[Offsets]:
        """Return the offsets, in each source, of some windows of a batch."""
        first, end, _ = rows.indices(self.batch_size)
        chosen = []
        for order, items in zip(
            self._orders, divide_items(iteration * self.batch_size, self.batch_size, self._shares), strict=True
        ):
            own = items[max(0, first) : max(0, end)]
            chosen.append(order.offsets(own.start, len(own)))
            first, end = first - len(items), end - len(items)
        return chosen


class WindowOrder:
    """The endless shuffled sequence of windows of a token array.

    Args:
        token_count: Length of the array; at least block_size + 1.
        block_size: Inputs in a window. Each window reads one token more, the last target.
        seed: Seed of shifts and permutations.
    """

    def __init__(self, token_count: int, block_size: int, seed: int) -> None:
        if token_count <= block_size:
            raise ValueError(f"{token_count} tokens hold no window of {block_size} inputs and their targets")
        self.block_size = block_size
        self.seed = seed
        # One window fewer than fit, so that the grid can shift by a whole block; no token is out of reach for good.
        self.windows_per_epoch = max(1, (token_count - block_size) // block_size)
        self._slack = token_count - 1 - self.windows_per_epoch * block_size

    def offsets(self, first: int, count: int) -> Offsets:
        """Return the window offsets of items first .. first + count - 1, (count,)."""
        items = np.arange(first, first + count, dtype=np.int64)
        epochs, places = np.divmod(items, self.windows_per_epoch)
        offsets = np.empty_like(items)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            key = np.random.SeedSequence([self.seed, int(epoch)])
            shift = int(key.generate_state(1, np.uint64)[0] % (self._slack + 1))
            offsets[in_epoch] = permute(places[in_epoch], self.windows_per_epoch, key) * self.block_size + shift
        return offsets


def divide_items(first: int, count: int, shares: Sequence[float], ahead: int = 0) -> list[range]:
    """Divide items among sequences by their shares.

    Items first .. first + count - 1 of the mixture are the returned items of each sequence. Over the whole mixture,
    every item of every sequence comes exactly once. A sequence with the share s has n * s of the first n items, to
    within one; among five sequences or more, to within a few.

    Args:
        first: The first item.
        count: The number of items.
        shares: The shares; only their ratios matter.
        ahead: 1 if these sequences may have got an item more than their share so far, -1 if an item less, 0 if neither.
    """
    if len(shares) == 1:
        return [range(first, first + count)]
    middle = (len(shares) + 1) // 2
    one, other = shares[:middle], shares[middle:]
    share = sum(other) / sum(shares)
    # The other half's count is rounded down. What is added before keeps both within one of their shares, although the
    # count that they divide is itself rounded.
    added = {0: 0.0, 1: 1 - share, -1: share}[ahead]
    before, after = int(first * share + added), int((first + count) * share + added)
    return [
        *divide_items(first - before, count - (after - before), one, ahead=1),
        *divide_items(before, after - before, other, ahead=-1),
    ]


def permute(places: NDArray[np.int64], size: int, key: np.random.SeedSequence) -> NDArray[np.int64]:
    """Map places of 0 .. size-1 to places by a pseudo-random permutation that is computed, not stored.

    A Feistel network permutes the smallest power of four that holds `size`; values that fall outside walk on along
    their cycle until they are inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half_bits) - 1)
    round_keys = key.generate_state(FEISTEL_ROUNDS + 1, np.uint64)[1:]

    def encrypt(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> np.uint64(half_bits), values & mask
        for round_key in round_keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        return (left << np.uint64(half_bits)) | right

    walked = encrypt(places.astype(np.uint64))
    while (outside := walked >= size).any():
        walked[outside] = encrypt(walked[outside])
    return walked.astype(np.int64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over the word (the finalizer of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def block_count(token_count: int, block_size: int) -> int:
    """Return how many non-overlapping blocks a split has whose every target is there: floor((n-1)/block_size)."""
    return max(0, (token_count - 1) // block_size)


def all_offsets(token_count: int, block_size: int) -> Offsets:
    """Return the offsets of the non-overlapping blocks of a split."""
    return np.arange(block_count(token_count, block_size), dtype=np.int64) * block_size


def spread_offsets(token_count: int, block_size: int, count: int, seed: int) -> Offsets:
    """Return `count` of the non-overlapping blocks, one at random from each of `count` equal parts of the split.

    The same arguments give the same blocks. No more are returned than there are.
    """
    return spread_places(block_count(token_count, block_size), count, seed) * block_size


def spread_places(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return `count` of the numbers 0 .. size - 1, ascending, one at random from each of `count` equal parts.

    The same arguments give the same numbers. All of them are returned if there are no more than `count`.
    """
    if count >= size:
        return np.arange(size, dtype=np.int64)
    edges = np.arange(count + 1) * size // count
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])


def gather(tokens: Tokens, offsets: Offsets, block_size: int) -> tuple[Tensor, Tensor]:
    """Read the windows at some offsets as inputs and targets, each (len(offsets), block_size), int64.

    Raises:
        DataError: The file that the tokens are mapped from has become shorter.
    """
    _check_length(tokens)
    expect_windows(tokens, offsets, block_size)
    windows = tokens[offsets[:, None] + np.arange(block_size + 1)].astype(np.int64)
    release_windows(tokens, offsets, block_size)
    both = torch.from_numpy(windows)
    return both[:, :-1], both[:, 1:]


def _check_length(tokens: Tokens) -> None:
    """Check that a mapped file is as long as it was: the system ends a program that reads beyond its end."""
    mapped = tokens.base
    if isinstance(mapped, mmap.mmap) and mapped.size() < len(mapped):
        file = getattr(tokens, "filename", "a token file")
        raise DataError(
            f"{file} has become shorter while it was read: {mapped.size():,} of {len(mapped):,} bytes are left, since "
            "something else writes to it; prepare the data set again, and resume the run"
        )


def evaluation_batches(
    tokens: Tokens, offsets: Offsets, *, block_size: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the windows at `offsets` in batches of inputs and targets, the last batch possibly smaller."""
    for first in range(0, len(offsets), batch_size):
        yield gather(tokens, offsets[first : first + batch_size], block_size)
