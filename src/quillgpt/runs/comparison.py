"""Whether one run is better than another one, or whether seeds explain the difference.

Runs that differ in their seed only form a group. How much its members differ is the spread of seeds, a standard
deviation that is pooled over all groups of two and more. Two groups of equal settings would then differ by less than a
margin in 95 of 100 cases: Student's quantile times that deviation times sqrt(1/n + 1/m), for n and m runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

from quillgpt.plots.record import Axis, Points, Row, curve
from quillgpt.runs.differences import grouped_by_seeds, same_but_for_seed
from quillgpt.runs.find import MOST_ENTRIES, find_runs
from quillgpt.runs.overview import Overview, evaluations, overview
from quillgpt.runs.small_files import number, read_origin, read_settings
from quillgpt.student import student_quantile

Measure = Literal["nats per token", "bits per byte"]
KEYS: Final[dict[Measure, str]] = {"nats per token": "val_loss", "bits per byte": "val_bits_per_byte"}


@dataclass(frozen=True)
class ComparedRun:
    """A run that is compared.

    Attributes:
        overview: What it has reached.
        settings: The content of its config.toml.
        origin: What its best checkpoint says of data set and tokenizer.
        rows: The rows of its evaluations.
    """

    overview: Overview
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        """Its name."""
        return self.overview.run

    def curve(self, measure: Measure, axis: Axis = "iter") -> Points:
        """Return its validation loss over iterations or seconds."""
        return curve(self.rows, "eval", KEYS[measure], axis=axis)

    def lowest(self, measure: Measure, *, by: float = math.inf, axis: Axis = "iter") -> float | None:
        """Return its lowest validation loss until a point of an axis; None where it has none there."""
        return min((loss for x, loss in self.curve(measure, axis) if x <= by), default=None)


def open_run(name: str, folder: Path) -> ComparedRun:
    """Read what a comparison needs of a run."""
    return ComparedRun(overview(name, folder), read_settings(folder), read_origin(folder), evaluations(folder))


def measure_for(runs: Sequence[ComparedRun]) -> Measure | None:
    """Return the measure in which runs can be compared; None: they are evaluated on different texts."""
    fingerprints = {run.origin.get("data_fingerprint") for run in runs} - {None}
    datasets = {run.settings.get("dataset") for run in runs if run.settings}
    tokenizers = {run.origin.get("tokenizer_fingerprint") for run in runs} - {None}
    if len(fingerprints) > 1:
        return "bits per byte" if len(tokenizers) > 1 and len(datasets) == 1 else None
    return None if len(datasets) > 1 and not fingerprints else "nats per token"


def common_end(runs: Sequence[ComparedRun], axis: Axis) -> float | None:
    """Return the last point of an axis that the evaluations of all runs have reached."""
    ends = [max((x for row in run.rows if (x := number(row, axis)) is not None), default=None) for run in runs]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


@dataclass(frozen=True)
class Scoring:
    """The number by which runs are compared.

    Attributes:
        measure: What it is measured in.
        by: The iteration up to which evaluations count; None: it is the loss of the best checkpoint over the whole
            validation split.
    """

    measure: Measure
    by: float | None

    def of(self, run: ComparedRun) -> float | None:
        """Return the number of a run; None where it has none."""
        if self.by is None:
            return run.overview.full_loss if run.overview.state == "finished" else None
        end = max((row["iter"] for row in run.rows), default=-1)
        return None if end < self.by else run.lowest(self.measure, by=self.by)

    @property
    def words(self) -> str:
        """What it is."""
        if self.by is None:
            return "best checkpoint, whole validation split"
        return f"lowest validation loss of an evaluation until iter {int(self.by):,}"


def scoring_of(runs: Sequence[ComparedRun], measure: Measure) -> Scoring | None:
    """Return the number by which runs can be compared: the loss over the whole split where all have one.

    Else it is the lowest of their evaluations until the last iteration that all have reached.
    """
    whole = Scoring(measure, None)
    if measure == "nats per token" and all(whole.of(run) is not None for run in runs):
        return whole
    end = common_end(runs, "iter")
    return None if end is None else Scoring(measure, end)


@dataclass(frozen=True)
class Spread:
    """How much runs vary that differ in their seed only.

    Attributes:
        deviation: The standard deviation.
        degrees: Its degrees of freedom.
        names: The runs that tell it.
    """

    deviation: float
    degrees: int
    names: tuple[str, ...]

    def margin(self, first: int, second: int) -> float:
        """Return what 95 % of the differences stay below between means of so many runs each with equal settings."""
        return student_quantile(self.degrees) * self.deviation * math.sqrt(1 / first + 1 / second)


def spread_of(groups: Sequence[Mapping[str, float]]) -> Spread | None:
    """Return the spread that groups of runs tell, each a number by name; None if none has two."""
    several = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in several)
    if not degrees:
        return None
    squares = sum((value - fmean(group.values())) ** 2 for group in several for value in group.values())
    return Spread(math.sqrt(squares / degrees), degrees, tuple(name for group in several for name in group))


@dataclass(frozen=True)
class Difference:
    """How much more one group of runs loses than another one.

    Attributes:
        first: The names of the one, which the other is compared with.
        second: The names of the other.
        values: The mean of each.
        margin: Below which 95 % of the differences between equal settings stay; None: the spread is not known.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    values: tuple[float, float]
    margin: float | None

    @property
    def value(self) -> float:
        """The second minus the first."""
        return self.values[1] - self.values[0]

    @property
    def verdict(self) -> Literal["better", "worse", "no difference can be told", "not known"]:
        """Whether the second is better or worse than seeds explain."""
        if self.margin is None:
            return "not known"
        if abs(self.value) <= self.margin:
            return "no difference can be told"
        return "better" if self.value < 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found.

    Attributes:
        scoring: By what the runs were compared.
        spread: How much seeds differ; None: no runs tell it.
        differences: The groups after the first one, compared with it.
    """

    scoring: Scoring
    spread: Spread | None
    differences: list[Difference]


def compare(runs: Sequence[ComparedRun], scoring: Scoring, others: Sequence[ComparedRun] = ()) -> Comparison:
    """Compare runs with the first one, or groups of them with the group of the first one.

    Args:
        runs: The runs.
        scoring: By what.
        others: Further runs, which tell how much seeds differ and nothing else.
    """
    scores = {run.name: score for run in (*runs, *others) if (score := scoring.of(run)) is not None}
    settings = {run.name: run.settings for run in (*runs, *others) if run.name in scores}
    named = {run.name for run in runs}
    groups = [[name for name in group if name in named] for group in grouped_by_seeds(settings)]
    groups = [group for group in groups if group]
    spread = spread_of([{name: scores[name] for name in group} for group in grouped_by_seeds(settings)])
    differences = []
    for group in groups[1:]:
        margin = None if spread is None else spread.margin(len(groups[0]), len(group))
        means = fmean(scores[name] for name in groups[0]), fmean(scores[name] for name in group)
        differences.append(Difference(tuple(groups[0]), tuple(group), means, margin))
    return Comparison(scoring, spread, differences)


def siblings(folders: Mapping[str, Path], runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return the runs beside some that differ from one of them in their seed only, so that they tell its spread."""
    known = {folder.resolve() for folder in folders.values()}
    found: list[ComparedRun] = []
    for parent in dict.fromkeys(folder.resolve().parent for folder in folders.values()):
        for folder in [parent / name for name in find_runs(parent) if "/" not in name][:MOST_ENTRIES]:
            settings = read_settings(folder)
            if folder in known or not any(_is_of_another_seed(settings, run.settings) for run in runs):
                continue
            known.add(folder)
            name = folder.name if folder.name not in folders else str(folder)
            found.append(open_run(name, folder))
    return found


def _is_of_another_seed(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return same_but_for_seed(first, second) and first.get("seed") != second.get("seed")
