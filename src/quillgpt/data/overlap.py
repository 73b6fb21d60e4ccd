"""Whether the validation split is a copy of training text; then its loss says nothing about other text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import warn
from quillgpt.data.dataset import Dataset

if TYPE_CHECKING:
    from quillgpt.data.batches import Tokens

WINDOW = 32
"""Tokens in a row; two different texts hardly ever share so many."""

SAMPLES = 512
MOST_TOKENS = 1 << 24
"""Tokens of the training split that are searched before training; of a longer one, evenly spread parts."""

PART_TOKENS = 1 << 16  # small enough for a processor's cache
MUCH = 0.5
"""Share of the validation split; if more is copied, it is reported."""

_FACTOR = 0x9E3779B97F4A7C15
Hashes = NDArray[np.uint64]


def warn_of_copy(dataset: Dataset) -> None:
    """Warn if most of the validation split is a copy of training text.

    Preparing has searched all of it; of a data set that is older or from elsewhere, parts are searched.
    """
    report = dataset.manifest.report if dataset.manifest is not None else None
    share = None if report is None else report.copied_share
    if share is None:
        share = copied_share(dataset.train, dataset.val, most_tokens=MOST_TOKENS)
    if share >= MUCH:
        warn(
            f"{share:.0%} of the validation text of {dataset.name} is also in its training text, word for word, so "
            "the validation loss says nothing about other text; validate on another text with --val, or leave out "
            "duplicates with --deduplicate"
        )


class TokensOfFile:
    """The tokens of a file, read when they are asked for; pages of a memory map would count as the process's memory."""

    def __init__(self, file: Path, dtype: str) -> None:
        self._file = file
        self._dtype = np.dtype(dtype).newbyteorder("<")

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._file.stat().st_size // self._dtype.itemsize

    def __getitem__(self, part: slice) -> Tokens:
        """Return the tokens of a slice with a start and an end, which may be beyond the end of the file."""
        start = int(part.start)
        return np.fromfile(self._file, self._dtype, count=int(part.stop) - start, offset=start * self._dtype.itemsize)


def copied_share(
    train: Tokens | TokensOfFile,
    val: Tokens | TokensOfFile,
    *,
    most_tokens: int | None = None,
    on_progress: Callable[[int], object] = lambda _: None,
) -> float:
    """Return the share of sampled windows of the validation split that also occur in the training split.

    Args:
        train: The training split, (tokens,).
        val: The validation split, (tokens,).
        most_tokens: The number of tokens of the training split that are searched; None searches all of it.
        on_progress: Called with the number of tokens that were searched.
    """
    if min(len(train), len(val)) < WINDOW:
        return 0.0
    starts = np.unique(np.linspace(0, len(val) - WINDOW, SAMPLES).astype(np.int64))
    sampled = np.concatenate([window_hashes(val[start : start + WINDOW]) for start in starts])
    low = np.zeros(1 << 16, dtype=np.bool_)
    low[sampled & np.uint64(0xFFFF)] = True
    found = np.zeros(len(sampled), dtype=np.bool_)
    for start in _part_starts(len(train), most_tokens):
        there = window_hashes(train[start : start + PART_TOKENS + WINDOW - 1])
        found |= np.isin(sampled, there[low[there & np.uint64(0xFFFF)]])
        on_progress(PART_TOKENS)
    return float(found.mean())


def window_hashes(tokens: Tokens) -> Hashes:
    """Return the hash of every window of WINDOW tokens, (tokens - WINDOW + 1,), by doubling the length of windows."""
    hashes = tokens.astype(np.uint64) + np.uint64(1)
    length = 1
    while length < WINDOW:
        factor = np.uint64(pow(_FACTOR, length, 1 << 64))
        hashes = hashes[:-length] * factor + hashes[length:]
        hashes ^= hashes >> np.uint64(29)
        length *= 2
    return hashes


def _part_starts(tokens: int, most_tokens: int | None) -> NDArray[np.int64]:
    if most_tokens is None or tokens <= most_tokens:
        return np.arange(0, tokens - WINDOW + 1, PART_TOKENS)
    return np.linspace(0, tokens - PART_TOKENS, most_tokens // PART_TOKENS).astype(np.int64)
