"""Timing candidates in turn (A B A B ...), so that a machine whose speed drifts still gives a fair ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Candidate = Callable[[], float]
"""Does one round of work and returns its rate, such as tokens per second."""


@dataclass(frozen=True)
class Result:
    """What one candidate came to.

    Attributes:
        name: The candidate.
        rates: Its rate in each round.
        median: Their median.
        ratio: Median over rounds of the first candidate's rate divided by this one's; 1 for the first itself.
    """

    name: str
    rates: list[float]
    median: float
    ratio: float


def run_rounds(candidates: Mapping[str, Candidate], rounds: int) -> list[Result]:
    """Let every candidate do one round to warm up and then `rounds` counted rounds, in turn."""
    for candidate in candidates.values():
        candidate()
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            rates[name].append(candidate())
    first = rates[next(iter(candidates))]
    return [
        Result(
            name=name,
            rates=own,
            median=statistics.median(own),
            ratio=statistics.median(ours / theirs for ours, theirs in zip(first, own, strict=True)),
        )
        for name, own in rates.items()
    ]
