"""Scores on tasks as tables, and as rows for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from quillgpt.evaluation.report import describe_difference
from quillgpt.evaluation.uncertainty import Estimate
from quillgpt.tables import ResultTable
from quillgpt.tasks.scores import Scored, difference

HUGE: Final = 1e6
"""Scores from here on are written with a power of ten."""

UNTOLD: Final = "no difference can be told"


@dataclass(frozen=True)
class TaskResult:
    """A score of one of the models.

    Attributes:
        place: The model's place among the models, from 0.
        model: Its name, as it was given.
        folder: The folder that it was loaded from.
        scored: The score.
    """

    place: int
    model: str
    folder: str
    scored: Scored

    def row(self) -> dict[str, Any]:
        """Return the result for `--json`."""
        return {"model": self.folder} | {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self.scored.score).items()
        }


@dataclass(frozen=True)
class TaskComparison:
    """How much higher the score of a model is than that of another one, paired by document.

    Attributes:
        result: The result of the one model.
        baseline: The result of the other one.
        difference: The score of the one minus that of the other; of perplexities, the difference of their logarithms.
    """

    result: TaskResult
    baseline: TaskResult
    difference: Estimate

    @property
    def measure(self) -> str:
        """What the difference is measured in: the metric, or its logarithm."""
        sums = self.result.scored.sums
        name = self.result.scored.score.name
        return f"ln {name}" if sums is not None and sums.is_logarithm else name

    @property
    def verdict(self) -> str:
        """Whether the one model is better or worse; without an interval, or if 0 lies in it, that cannot be told."""
        interval = self.difference.interval
        if interval is None or interval[0] <= 0 <= interval[1]:
            return UNTOLD
        is_lower = interval[1] < 0
        return "better" if is_lower == (self.result.scored.score.higher_is_better is False) else "worse"

    def row(self) -> dict[str, Any]:
        """Return the comparison for `--json`."""
        score, estimate = self.result.scored.score, self.difference
        return {
            "model": self.result.folder,
            "baseline": self.baseline.folder,
            "task": score.task,
            "metric": score.metric,
            "filter": score.filter,
            "difference": estimate.value if math.isfinite(estimate.value) else None,
            "measure": self.measure,
            "standard_error": estimate.standard_error,
            "interval": estimate.interval and list(estimate.interval),
            "documents": estimate.groups,
            "verdict": self.verdict,
        }


def compare_task_results(results: Sequence[TaskResult]) -> list[TaskComparison]:
    """Compare every model with the first one, in the scores that are means over the same documents."""
    baselines = {result.scored.score.key: result for result in results if result.place == 0}
    comparisons = []
    for result in results:
        baseline = baselines.get(result.scored.score.key)
        if result.place > 0 and baseline is not None:
            estimate = difference(result.scored, baseline.scored)
            if estimate is not None:
                comparisons.append(TaskComparison(result, baseline, estimate))
    return comparisons


def task_table(results: Sequence[TaskResult]) -> ResultTable:
    """Return a row for each score; those of one task stand together."""
    formats = {"model": "s", "task": "s", "metric": "s", "score": ">s", "s.e.": ".2g", "chance": ".4f"}
    formats |= {"documents": ",d", "shots": "d"}
    keys = list(dict.fromkeys(result.scored.score.key for result in results))
    rows = [
        {
            "model": result.model,
            "task": score.task,
            "metric": score.name,
            "score": describe_score(score.score),
            "s.e.": score.standard_error,
            "chance": score.chance,
            "documents": score.documents,
            "shots": score.num_fewshot,
        }
        for result in sorted(results, key=lambda result: keys.index(result.scored.score.key))
        for score in [result.scored.score]
    ]
    return ResultTable("Scores on tasks, with their standard errors and the scores of random answers", formats, rows)


def describe_score(score: float) -> str:
    """Return a score with four digits after the point; a huge perplexity with a power of ten."""
    return f"{score:.2e}" if abs(score) >= HUGE else f"{score:.4f}"


def task_comparison_table(comparisons: Sequence[TaskComparison]) -> ResultTable:
    """Return a row for each difference."""
    formats = {"model": "s", "minus": "s", "task": "s", "metric": "s", "difference": ">s", "95 % interval": "s"}
    formats |= {"documents": ",d", "model is": "s"}
    rows = []
    for comparison in comparisons:
        value, interval = describe_difference(comparison.difference)
        rows.append(
            {
                "model": comparison.result.model,
                "minus": comparison.baseline.model,
                "task": comparison.result.scored.score.task,
                "metric": comparison.measure,
                "difference": value,
                "95 % interval": interval,
                "documents": comparison.difference.groups,
                "model is": comparison.verdict,
            }
        )
    return ResultTable("Differences on the same documents, paired", formats, rows)
