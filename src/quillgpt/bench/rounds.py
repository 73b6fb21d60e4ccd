"""Timing candidates in turn (A B A B ...), so that a machine whose speed drifts still gives a fair ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quillgpt.console import progress

Candidate = Callable[[], float]
"""Does one round of work and returns its rate, such as tokens per second."""


@dataclass(frozen=True)
class Timing:
    """What the rounds of one candidate came to.

    Attributes:
        rates: Its rate in each round.
        median: Their median.
        ratio: Median over rounds of the first candidate's rate divided by this one's; 1 for the first itself.
    """

    rates: list[float]
    median: float
    ratio: float


def run_rounds(candidates: Mapping[str, Candidate], rounds: int) -> dict[str, Timing]:
    """Let every candidate do one round to warm up and then `rounds` counted rounds, in turn."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    with progress("Measuring", len(candidates) * (rounds + 1)) as advance:
        for _ in range(rounds + 1):
            for name, candidate in candidates.items():
                rates[name].append(candidate())
                advance()
    counted = {name: own[1:] for name, own in rates.items()}
    first = counted[next(iter(counted))]
    return {
        name: Timing(
            rates=own,
            median=statistics.median(own),
            ratio=statistics.median(ours / theirs for ours, theirs in zip(first, own, strict=True)),
        )
        for name, own in counted.items()
    }
