"""Timing candidates in turn (A B A B ...), so that the ratio is fair even if the machine's speed drifts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quillgpt.console import progress

Round = Callable[[], float]
"""Does one round of work and returns its rate, such as tokens per second."""


@dataclass(frozen=True)
class Throughput:
    """The speed of one candidate.

    Attributes:
        rates: Its rate in each round.
        median: The median of the rates.
        ratio: The first candidate's rate divided by this one's, the median over the rounds; 1 for the first itself.
    """

    rates: list[float]
    median: float
    ratio: float


def run_rounds(candidates: Mapping[str, Round], rounds: int) -> dict[str, Throughput]:
    """Run one warm-up round of every candidate and then `rounds` counted rounds, in turn."""
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    with progress("Measuring", len(candidates) * (rounds + 1)) as advance:
        for _ in range(rounds + 1):
            for name, candidate in candidates.items():
                rates[name].append(candidate())
                advance()
    counted = {name: all_rates[1:] for name, all_rates in rates.items()}
    first = counted[next(iter(counted))]
    return {
        name: Throughput(
            rates=rates_of_one,
            median=statistics.median(rates_of_one),
            ratio=statistics.median(ours / theirs for ours, theirs in zip(first, rates_of_one, strict=True)),
        )
        for name, rates_of_one in counted.items()
    }
