"""How long a match must be to count as copied: longer than those of held-out text, which nobody copied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from quillgpt.data.dataset import Dataset
from quillgpt.records import Record
from quillgpt.trace.matching import EncodedText, Matches, longest_around, maximal_matches
from quillgpt.trace.passages import passages
from quillgpt.trace.suffix_array import SuffixArray
from quillgpt.trace.training_text import text_of

PERCENTILE = 99.9
SHORTEST, LONGEST = 24, 100
"""Bounds of the calibrated length in characters. A text that repeats itself has long matches even in its held-out part;
a passage longer than the upper bound is copied all the same, and the expected share says how usual that is."""

HELD_OUT_CHARACTERS = 1 << 18
COMPARED_CHARACTERS = 1 << 16
"""Held-out characters that are searched for matches, and those that are also searched for near copies."""

WINDOWS = 8


class Calibration(Record):
    """What held-out text of the same data has in common with the training text by chance.

    Attributes:
        least: Characters from which a match counts as copied.
        percentile: The length that 99.9 % of the held-out characters' longest matches do not exceed; matches of fewer
            than `SHORTEST` characters count as 0.
        copied: The share of held-out characters that count as copied.
        close: The share of held-out characters that count as close.
        characters: The held-out characters that were searched.
    """

    least: int
    percentile: int
    copied: float
    close: float
    characters: int


def calibrate(datasets: Sequence[Dataset], index: SuffixArray) -> Calibration:
    """Calibrate the length of copies by the validation splits of data sets.

    Args:
        datasets: Data sets whose training splits are indexed.
        index: The index.
    """
    held_out = [EncodedText(text) for text in held_out_texts(datasets, HELD_OUT_CHARACTERS)]
    longest = np.concatenate(
        [np.zeros(0, np.int64), *(longest_around(_long(text, index), len(text.text)) for text in held_out)]
    )
    # `higher` is a length that occurs, so that no more than the rest exceeds it.
    percentile = math.ceil(np.percentile(longest, PERCENTILE, method="higher")) if longest.size else 0
    least = min(max(percentile + 1, SHORTEST), LONGEST)
    close = compared = 0
    for text in held_out:
        part = EncodedText(text.text[: COMPARED_CHARACTERS // max(1, len(held_out))])
        close += sum(one.end - one.start for one in passages(part, index, least) if one.kind == "close")
        compared += len(part.text)
    return Calibration(
        least=least,
        percentile=percentile,
        copied=float((longest >= least).mean()) if longest.size else 0.0,
        close=close / compared if compared else 0.0,
        characters=len(longest),
    )


def held_out_texts(datasets: Sequence[Dataset], characters: int) -> list[str]:
    """Return parts of validation splits, of about so many characters in all, spread evenly over them."""
    texts = []
    for dataset in datasets:
        tokens = dataset.val
        bytes_per_token = dataset.manifest.val.bytes / max(1, len(tokens)) if dataset.manifest else 1.0
        wanted = int(characters / len(datasets) / max(bytes_per_token, 1e-9))
        starts = np.arange(1) if len(tokens) <= wanted else np.arange(WINDOWS) * (len(tokens) // WINDOWS)
        size = len(tokens) if len(tokens) <= wanted else wanted // WINDOWS
        for start in starts.tolist():
            texts.append(text_of(tokens[start : start + size], dataset.tokenizer))
    return [text for text in texts if text]


def _long(text: EncodedText, index: SuffixArray) -> Matches:
    return maximal_matches(text, index, SHORTEST)
