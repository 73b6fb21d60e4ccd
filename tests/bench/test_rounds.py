"""Candidates take turns, and ratios are computed within a round."""

from __future__ import annotations

from quillgpt.bench.rounds import run_rounds


def test_candidates_take_turns_after_one_warm_up() -> None:
    order: list[str] = []
    rates = iter([1.0, 1.0, 8.0, 2.0, 9.0, 3.0, 4.0, 4.0])

    def candidate(name: str) -> float:
        order.append(name)
        return next(rates)

    throughputs = run_rounds({"a": lambda: candidate("a"), "b": lambda: candidate("b")}, rounds=3)
    first, second = throughputs["a"], throughputs["b"]
    assert order == ["a", "b"] * 4
    assert (first.rates, second.rates) == ([8.0, 9.0, 4.0], [2.0, 3.0, 4.0])
    assert (first.median, second.median) == (8.0, 3.0)
    assert (first.ratio, second.ratio) == (1.0, 3.0)  # the median of 4, 3 and 1
