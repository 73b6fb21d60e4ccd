"""The difference between two models on the same text, paired unit by unit.

The difficulty of a unit is shared by both models, so the differences vary much less than the losses, and a difference
far smaller than either standard error can be told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quillgpt.errors import DataError
from quillgpt.evaluation.loss import Score
from quillgpt.evaluation.uncertainty import Estimate, Ratio, estimate
from quillgpt.evaluation.units import Unit, UnitSums, estimate_over

Measure = Literal["nats per token", "bits per byte"]

SEPARATOR_BYTES = 2
"""Most bytes of the blank line that separates documents where the tokenizer has no end of text."""


@dataclass(frozen=True)
class Difference:
    """How much more a model loses than another one on the same text.

    Attributes:
        estimate: The loss of the first minus the loss of the second.
        measure: What it is measured in.
        unit: What a unit of the text is.
        units: How many units were compared.
    """

    estimate: Estimate
    measure: Measure
    unit: Unit
    units: int

    @property
    def verdict(self) -> Literal["better", "worse", "no difference can be told"]:
        """Whether the first model is better or worse; without an interval, or if 0 lies in it, that cannot be told."""
        interval = self.estimate.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return "no difference can be told"
        return "better" if interval[1] < 0 else "worse"


def compare(first: Score, second: Score, *, same_tokens: bool) -> Difference:
    """Return the loss of one model minus that of another.

    Targets that only one of the models has predicted do not count: the last ones of a split, where blocks are of
    different lengths.

    Args:
        first: The score of the one model.
        second: The score of the other one.
        same_tokens: Whether they were measured on the same tokens. Otherwise their tokenizers differ, and the same
            documents are compared in bits per byte.

    Raises:
        DataError: They have no text in common; the message is the reason.
    """
    if first.units is None or second.units is None:
        raise DataError("one of them was not measured unit by unit")
    pair = _same_tokens if same_tokens else _same_documents
    return pair(first.units, second.units)


def _same_tokens(first: UnitSums, second: UnitSums) -> Difference:
    shared = min(len(first), len(second))
    same = (first.tokens[:shared] == second.tokens[:shared]) & (first.places[:shared] == second.places[:shared])
    if first.unit != second.unit or not same.any():
        raise DataError(
            "their blocks have different lengths, and no document or block was predicted by both; give both the same "
            "--block_size, or take a whole split: --split val"
        )
    losses, tokens = (first.losses[:shared] - second.losses[:shared])[same], first.tokens[:shared][same]
    found = estimate_over(first.unit, Ratio(losses, tokens))
    return Difference(found, "nats per token", first.unit, len(tokens))


def _same_documents(first: UnitSums, second: UnitSums) -> Difference:
    advice = "prepare one text of several documents with both tokenizers, and measure the whole --split val"
    if first.unit != "document" or second.unit != "document":
        raise DataError(f"their tokenizers differ, and the text is not divided into documents; {advice}")
    whole = slice(1, min(len(first), len(second)))  # the first token of the first document is never predicted
    ended = (first.ends[whole] > 0) & (second.ends[whole] > 0)
    bytes_of = [sums.bytes[whole][ended] for sums in (first, second)]
    apart = np.abs(bytes_of[0] - bytes_of[1])
    if not ended.any() or abs(len(first) - len(second)) > 1 or apart.max() > SEPARATOR_BYTES:
        raise DataError(f"their tokenizers differ, and so do the documents; {advice}")
    ratios = [
        Ratio(sums.losses[whole][ended] / math.log(2), count)
        for sums, count in zip((first, second), bytes_of, strict=True)
    ]
    return Difference(estimate(*ratios), "bits per byte", "document", len(bytes_of[0]))
