"""From the values of documents to scores: with standard error, chance level, and the difference between two models."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any, Final

import numpy as np
from lm_eval.api import metrics

from quillgpt.evaluation.uncertainty import Estimate, Ratio, estimate

Aggregation = Callable[..., Any]
"""lm-eval's function from the values of documents to a score."""

RESAMPLES: Final = 100
"""Resamples of the documents, for the standard error of a score that is no ratio of sums."""

RESAMPLED: Final = (
    metrics.median,
    metrics.matthews_corrcoef,
    metrics.f1_score,
    metrics.bleu,
    metrics.chrf,
    metrics.chrfpp,
    metrics.ter,
)

OF_CHOICES: Final = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
"""Metrics of multiple choice that give the share of documents whose right choice was taken."""

WHOLE_TEXTS: Final = {
    "multiple_choice": ("exact_match",),
    "loglikelihood": ("acc",),
    "generate_until": ("exact_match", "bleu"),
}
"""Metrics that a text of tokens drawn at random practically never scores in, by what is asked of the model."""

NO_FILTER: Final = "none"


@dataclass(frozen=True)
class TaskScore:
    """A score of a model on a task, or on a group of tasks.

    Attributes:
        task: The name of the task or group.
        metric: The metric, such as `acc`.
        filter: How answers are read before they are compared, such as `strict-match`; `none`: as they are.
        score: The score.
        standard_error: Its standard error over documents; None if there is no estimate.
        chance: The score of random answers; None if there is no such level, as for a perplexity.
        higher_is_better: Whether a higher score is better; None if the task does not say.
        documents: Number of documents.
        num_fewshot: Number of examples in each prompt; None for a group whose tasks differ.
    """

    task: str
    metric: str
    filter: str
    score: float
    standard_error: float | None
    chance: float | None
    higher_is_better: bool | None
    documents: int
    num_fewshot: int | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from a model's other scores."""
        return self.task, self.metric, self.filter

    @property
    def name(self) -> str:
        """The metric, with the filter if there is one."""
        return self.metric if self.filter == NO_FILTER else f"{self.metric} ({self.filter})"


@dataclass(frozen=True)
class DocumentSums:
    """A score, or its logarithm, as a ratio of sums over documents.

    Attributes:
        ratio: The sums.
        is_logarithm: Whether the ratio is the natural logarithm of the score.
        documents: The hash of each document.
    """

    ratio: Ratio
    is_logarithm: bool
    documents: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """A score, and what it is made of; None if it is no ratio of sums over documents."""

    score: TaskScore
    sums: DocumentSums | None


def read_sums(values: Sequence[Any], aggregation: Aggregation, documents: tuple[str, ...]) -> DocumentSums | None:
    """Return the sums over documents that an aggregation of lm-eval divides; None for another aggregation."""
    weights = np.ones(len(values), dtype=np.int64)
    try:
        if aggregation is metrics.mean:
            totals = np.array([float(value) for value in values])
        elif aggregation is metrics.brier_score:
            totals = np.array([float(metrics.brier_score([value])) for value in values])
        elif aggregation is metrics.perplexity:
            totals = -np.array(values, dtype=np.float64)
        elif aggregation in (metrics.weighted_perplexity, metrics.bits_per_byte):
            totals = -np.array([loglikelihood for loglikelihood, _ in values], dtype=np.float64)
            weights = np.array([weight for _, weight in values], dtype=np.int64)
            if aggregation is metrics.bits_per_byte:
                totals /= math.log(2)
        else:
            return None
    except (TypeError, ValueError):  # values that are no numbers
        return None
    is_logarithm = aggregation in (metrics.perplexity, metrics.weighted_perplexity)
    return DocumentSums(Ratio(totals, weights), is_logarithm, documents)


def standard_error(
    score: float, sums: DocumentSums | None, values: Sequence[Any], aggregation: Aggregation
) -> float | None:
    """Return the standard error of a score over its documents, or None if it cannot be estimated.

    For a mean it is the usual one, for other ratios the jackknife; exp passes it on by its slope. Where there is no
    ratio, the documents are drawn anew RESAMPLES times.
    """
    if sums is not None:
        error = estimate(sums.ratio).standard_error
        return error if error is None or not sums.is_logarithm else score * error
    if aggregation not in RESAMPLED or len(values) < 2:
        return None
    draw = random.Random(0)
    return float(stdev(float(aggregation(draw.choices(values, k=len(values)))) for _ in range(RESAMPLES)))


def chance_level(
    metric: str, output_type: str | None, samples: Sequence[Mapping[str, Any]], *, has_own_scoring: bool
) -> float | None:
    """Return the expected score of answers that are drawn at random; None if there is no such level.

    Args:
        metric: The metric.
        output_type: What is asked of the model: `multiple_choice`, `loglikelihood`, `loglikelihood_rolling`,
            `generate_until`.
        samples: lm-eval's records of the documents.
        has_own_scoring: Whether a function of the task computes its scores.
    """
    if has_own_scoring:
        return None
    if output_type == "multiple_choice" and metric in OF_CHOICES:
        asked_twice = 2 if any("acc_mutual_info" in sample["metrics"] for sample in samples) else 1
        shares = [_right_answers(sample) * asked_twice / len(sample["arguments"]) for sample in samples]
        return sum(shares) / len(shares)
    return 0.0 if metric in WHOLE_TEXTS.get(output_type or "", ()) else None


def _right_answers(sample: Mapping[str, Any]) -> int:
    return len({*sample["target"]}) if isinstance(sample["target"], list) else 1


def difference(one: Scored, other: Scored) -> Estimate | None:
    """Return how much higher the first of two models' scores is, compared document by document.

    Of perplexities the logarithms are compared. None: the scores are no ratios of sums, or of different documents.
    """
    if one.sums is None or other.sums is None or one.sums.documents != other.sums.documents:
        return None
    return estimate(one.sums.ratio, other.sums.ratio)
