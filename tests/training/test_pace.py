"""A run that was given minutes ends with them, whatever its length was thought to be."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from quillgpt.training import train
from quillgpt.training.pace import SPARE_SECONDS, Pace
from quillgpt.training.planning.scaling import enough_iterations
from quillgpt.training.run import Run
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def after(run: Run, *, iterations: int, each: float, evaluation: float = 0.0) -> Pace:
    """Return the pace of a run that has done so many iterations, each in so many seconds, and nothing else."""
    clock = Clock()
    run.state.seconds = 0.0
    pace = Pace(run, 0.0, clock=clock)
    for _ in range(iterations):
        clock.seconds += each
        pace.count(each)
    pace.count_evaluation(evaluation)
    run.state.iteration = iterations
    run.state.seconds = run.state.train_seconds = clock.seconds
    return pace


@pytest.mark.parametrize("planned", [100, 1000])
def test_the_length_becomes_what_fits(tiny: MakeSettings, planned: int) -> None:
    run = set_up(tiny(minutes=2.0, max_iters=planned, lr_decay_iters=planned))
    pace = after(run, iterations=10, each=0.25)
    assert pace.remaining_seconds() == pytest.approx((planned - 10) * 0.25)
    fitting = pace.fitting_iterations()
    assert fitting is not None
    assert fitting == int((120 - SPARE_SECONDS) / 0.25)
    run.change_length(fitting)
    assert (run.settings.max_iters, run.settings.lr_decay_iters) == (fitting, fitting)
    assert pace.fitting_iterations() is None


def test_the_last_evaluation_has_its_time(tiny: MakeSettings) -> None:
    run = set_up(tiny(minutes=1.0, eval_iters=None))
    without = after(run, iterations=4, each=1.0).fitting_iterations()
    with_one = after(run, iterations=4, each=1.0, evaluation=20.0).fitting_iterations()
    assert without is not None
    assert with_one is not None
    assert 8 <= without - with_one <= 12  # the whole val split is half of an evaluation of both


def test_a_run_that_is_late_stops_where_it_is(tiny: MakeSettings) -> None:
    assert after(set_up(tiny(minutes=0.1)), iterations=9, each=2.0).fitting_iterations() == 9


def test_without_minutes_the_length_stays(tiny: MakeSettings) -> None:
    assert after(set_up(tiny()), iterations=9, each=2.0).fitting_iterations() is None


def test_a_short_text_is_not_read_for_ever(tiny: MakeSettings) -> None:
    run = set_up(tiny(minutes=60.0, defaults="scaled"))
    run.change_length(12)
    enough = enough_iterations(run.settings, len(run.mixture.datasets[0].train))
    assert 12 < enough < 10_000
    assert after(run, iterations=5, each=0.01).fitting_iterations() == enough
    run.change_length(enough)
    assert after(run, iterations=5, each=0.01).fitting_iterations() is None


def test_a_run_ends_on_time_and_writes_down_its_length(tiny: MakeSettings, tmp_path: Path) -> None:
    settings = tiny(minutes=0.05, max_iters=1_000_000, lr_decay_iters=1_000_000, eval_interval=1000)
    summary = train(settings)
    assert summary is not None
    assert 10 < summary.iterations < 100_000
    assert summary.wall_seconds < 30  # three seconds on a machine with nothing else to do
    written = tomllib.loads((tmp_path / "out/config.toml").read_text(encoding="utf-8"))
    assert written["max_iters"] == written["lr_decay_iters"] == summary.iterations
    rates = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [row["lr"] for row in rates if row["kind"] == "train"][-1]
    assert last < 2 * settings.min_lr  # the schedule came to its end too
