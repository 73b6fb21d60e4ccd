"""Reads windows of a large token file before they are used, and lets them go afterwards.

A file that is larger than the memory is read from the disk again and again. Left to itself, the system reads far more
than a window around each place, one place after another, while the program waits.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from quillgpt.data.batches import Offsets, Tokens

LARGE_BYTES = 1 << 28
"""Size of a file from which on it is read ahead; a smaller one is soon in memory as a whole."""

MAPPED_AT_ONCE = max(1 << 16, mmap.PAGESIZE)
"""Linux maps what is already in memory in such pieces around a page that is read."""


def expect_windows(tokens: Tokens, offsets: Offsets, block_size: int) -> None:
    """Ask the system to read the windows at some offsets now, all at once, and do not wait for them."""
    _advise(tokens, offsets, block_size, "MADV_WILLNEED", mmap.PAGESIZE)


def release_windows(tokens: Tokens, offsets: Offsets, block_size: int) -> None:
    """Let the windows at some offsets go: they no longer count as memory of this process."""
    _advise(tokens, offsets, block_size, "MADV_DONTNEED", MAPPED_AT_ONCE)


def _advise(tokens: Tokens, offsets: Offsets, block_size: int, name: str, unit: int) -> None:
    """Give the system an advice about windows of a large mapped file, in whole units, if it takes any."""
    mapped, advice = tokens.base, getattr(mmap, name, None)
    if advice is None or not isinstance(mapped, mmap.mmap) or len(mapped) < LARGE_BYTES:
        return
    starts = offsets * tokens.itemsize // unit * unit
    ends = -(-(offsets + block_size + 1) * tokens.itemsize // unit) * unit  # beyond the end of the file at most
    for start, length in np.stack([starts, ends - starts], axis=1).tolist():
        mapped.madvise(advice, start, length)
