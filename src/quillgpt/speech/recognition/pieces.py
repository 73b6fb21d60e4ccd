"""Cuts audio where it is quietest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quillgpt.speech.recognition.transcript import SAMPLE_RATE

WINDOW = SAMPLE_RATE // 50


def quietest(samples: NDArray[np.float32], first: int, last: int) -> int:
    """Return the middle of the quietest 20 ms between two positions; of several, the last one."""
    windows = samples[first : first + (last - first) // WINDOW * WINDOW].reshape(-1, WINDOW)
    if not len(windows):
        return last
    loudness = np.square(windows).sum(axis=1)
    return first + (len(windows) - 1 - int(loudness[::-1].argmin())) * WINDOW + WINDOW // 2


def cuts(samples: NDArray[np.float32], most: int, tail: int) -> list[tuple[int, int]]:
    """Return the bounds of pieces of at most `most` samples; each is cut at the quietest place of its last `tail`."""
    ends, start = list[tuple[int, int]](), 0
    while len(samples) - start > most:
        end = quietest(samples, start + most - tail, start + most)
        ends.append((start, end))
        start = end
    return [*ends, (start, len(samples))]
