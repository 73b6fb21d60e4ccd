"""The results of an evaluation as tables, and as rows for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quillgpt.errors import DataError
from quillgpt.evaluation.comparison import Difference, compare
from quillgpt.evaluation.loss import Score, spell_perplexity
from quillgpt.evaluation.uncertainty import Estimate
from quillgpt.tables import ResultTable

DIGITS = 4
"""Digits after the point of a loss."""

MOST_DIGITS = 8


@dataclass(frozen=True)
class Result:
    """The score of a model on a split of a data set.

    Attributes:
        place: The model's place among the models, from 0.
        model: Its name, as it was given.
        folder: The folder that it was loaded from.
        dataset: The name of the data set, as it was given.
        split: `train` or `val`.
        batches: The number of batches that were taken; None: the whole split.
        score: The score.
        published: The published loss of this model on this split, if there is one.
    """

    place: int
    model: str
    folder: str
    dataset: str
    split: str
    batches: int | None
    score: Score
    published: float | None = None

    def row(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        score, contexts, units = self.score, self.score.contexts, self.score.units
        return {
            "model": self.folder,
            "dataset": self.dataset,
            "split": self.split,
            "batches": self.batches,
            "loss": _finite(score.loss),
            "perplexity": _finite(score.perplexity),
            "bits_per_byte": _finite(score.bits_per_byte),
            "tokens": score.tokens,
            "block_size": score.block_size,
            "stride": score.stride,
            "bytes": score.bytes,
            "shortest_context": contexts and contexts.shortest,
            "longest_context": contexts and contexts.longest,
            "mean_context": contexts and contexts.mean,
            **_uncertainty(score.estimate, None if units is None else units.unit, 0 if units is None else len(units)),
        }


@dataclass(frozen=True)
class Comparison:
    """The difference between two models on the same text, or why there is none.

    Attributes:
        result: The result of the one model.
        baseline: The result of the other one.
        difference: The loss of the one minus that of the other; or the reason why they cannot be compared.
    """

    result: Result
    baseline: Result
    difference: Difference | str

    @property
    def caveat(self) -> str | None:
        """Why they cannot be compared, or what else differs between them; None: nothing."""
        one, other = self.result, self.baseline
        pair = f"{one.model} and {other.model}"
        if isinstance(self.difference, str):
            return f"{pair} cannot be compared on {one.dataset} {one.split}: {self.difference}"
        if self.difference.measure == "nats per token":
            seen, seen_by_other = describe_contexts(one.score), describe_contexts(other.score)
            if seen != seen_by_other:
                return f"{pair} saw contexts of different lengths: {seen} tokens, and {seen_by_other}"
        return None

    def row(self) -> dict[str, Any] | None:
        """Return the comparison for `--json`; None if there is no difference."""
        if isinstance(self.difference, str):
            return None
        return {
            "model": self.result.folder,
            "baseline": self.baseline.folder,
            "dataset": self.result.dataset,
            "baseline_dataset": self.baseline.dataset,
            "split": self.result.split,
            "difference": _finite(self.difference.estimate.value),
            "measure": self.difference.measure,
            **_uncertainty(self.difference.estimate, self.difference.unit, self.difference.units),
            "verdict": self.difference.verdict,
        }


def compare_results(results: Sequence[Result]) -> list[Comparison]:
    """Compare every model with the first one, on the splits that both have read.

    A model with another tokenizer has read another data set; it is compared on the one that holds the same documents.
    """
    baselines = [result for result in results if result.place == 0]
    comparisons = []
    for result in results:
        if result.place == 0:
            continue
        of_split = [baseline for baseline in baselines if baseline.split == result.split]
        same = [baseline for baseline in of_split if baseline.dataset == result.dataset]
        attempts = [_comparison(result, baseline, same_tokens=bool(same)) for baseline in same or of_split]
        told = [attempt for attempt in attempts if isinstance(attempt.difference, Difference)]
        comparisons += (told or attempts)[:1]
    return comparisons


def _comparison(result: Result, baseline: Result, *, same_tokens: bool) -> Comparison:
    try:
        return Comparison(result, baseline, compare(result.score, baseline.score, same_tokens=same_tokens))
    except DataError as error:
        return Comparison(result, baseline, str(error))


def result_table(results: Sequence[Result]) -> ResultTable:
    """Return a row for each result; those of one split stand together."""
    formats = {
        "model": "s",
        "data": "s",
        "loss": f".{DIGITS}f",
        "s.e.": ".2g",
        "over": "s",
        "perplexity": ">s",
        "bits per byte": f".{DIGITS}f",
        "tokens": ",d",
        "context": "s",
    }
    if any(result.published is not None for result in results):
        formats["published"] = ".2f"
    splits = list(dict.fromkeys((result.dataset, result.split) for result in results))
    rows = [
        {
            "model": result.model,
            "data": describe_text(result),
            "loss": result.score.loss,
            "s.e.": result.score.estimate.standard_error,
            "over": result.score.units
            and describe_units(result.score.units.unit, len(result.score.units), result.score.estimate),
            "perplexity": spell_perplexity(result.score.loss, DIGITS),
            "bits per byte": result.score.bits_per_byte,
            "tokens": result.score.tokens,
            "context": describe_contexts(result.score),
            "published": result.published,
        }
        for result in sorted(results, key=lambda result: splits.index((result.dataset, result.split)))
    ]
    return ResultTable("Loss in nats per token, with its standard error", formats, rows)


def comparison_table(comparisons: Sequence[Comparison]) -> ResultTable:
    """Return a row for each difference."""
    formats = {"model": "s", "minus": "s", "data": "s", "difference": ">s", "95 % interval": "s", "in": "s"}
    formats |= {"over": "s", "model is": "s"}
    rows = []
    for comparison in comparisons:
        difference = comparison.difference
        if isinstance(difference, Difference):
            value, interval = describe_difference(difference.estimate)
            rows.append(
                {
                    "model": comparison.result.model,
                    "minus": comparison.baseline.model,
                    "data": describe_text(comparison.result),
                    "difference": value,
                    "95 % interval": interval,
                    "in": difference.measure,
                    "over": describe_units(difference.unit, difference.units, difference.estimate),
                    "model is": difference.verdict,
                }
            )
    return ResultTable("Differences on the same text, paired", formats, rows)


def describe_text(result: Result) -> str:
    """Return the text that a result is about."""
    part = "" if result.batches is None else f", {_count(result.batches, 'batch', 'es')}"
    return f"{result.dataset} {result.split}{part}"


def describe_contexts(score: Score) -> str | None:
    """Return how many tokens a model saw before a target."""
    contexts = score.contexts
    if contexts is None:
        return None
    if contexts.shortest == contexts.longest:
        return f"{contexts.longest:,}"
    return f"{contexts.shortest:,} to {contexts.longest:,}"


def describe_units(unit: str, units: int, estimate: Estimate) -> str:
    """Return what a standard error is over."""
    stretches = f" in {estimate.groups:,} stretches" if estimate.groups < units else ""
    return f"{_count(units, unit)}{stretches}"


def describe_difference(estimate: Estimate) -> tuple[str, str | None]:
    """Return a difference and its 95 % interval, with so many digits that the standard error has two."""
    error = estimate.standard_error
    digits = DIGITS if not error else min(MOST_DIGITS, max(DIGITS, 1 - math.floor(math.log10(error))))
    interval = estimate.interval and " to ".join(f"{end:+.{digits}f}" for end in estimate.interval)
    return f"{estimate.value:+.{digits}f}", interval


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _finite(value: float | None) -> float | None:
    """Return a number, or None for one that JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def _uncertainty(estimate: Estimate, unit: str | None, units: int) -> dict[str, Any]:
    """Return what `--json` says about the uncertainty of a number."""
    return {
        "standard_error": estimate.standard_error,
        "interval": estimate.interval and list(estimate.interval),
        "degrees_of_freedom": estimate.degrees,
        "unit": unit,
        "units": units,
        "groups": estimate.groups,
    }
