"""A run that was given minutes ends with them, its schedule complete, however fast it turns out to be and when."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quillgpt.optim.schedule import learning_rate
from quillgpt.training import Interruption, train
from quillgpt.training import trainer as loop
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.pace import LATE_SECONDS, LATE_SHARE, LEAST_OF_TRACE, SPARE_SECONDS, TRACED_SHARE, Pace
from quillgpt.training.planning.scaling import enough_iterations
from quillgpt.training.record import finish
from quillgpt.training.run import LONGEST_WARMUP_SHARE, Run
from quillgpt.training.samples import sample_is_due
from quillgpt.training.start.setup import set_up
from quillgpt.training.trainer import Trainer
from quillgpt.training.validation import SOON, blocks_of_an_evaluation, blocks_of_val, evaluation_is_due

from .conftest import MakeSettings

MOST_UNUSED = 0.1

Slowness = Callable[[float], float]
"""How many times slower than usual the machine is, at a share of the minutes."""

BUSY: dict[str, Slowness] = {
    "quiet": lambda _: 1.0,
    "half as fast from the middle": lambda share: 2.0 if share > 0.5 else 1.0,
    "twice as fast from the middle": lambda share: 0.5 if share > 0.5 else 1.0,
    "slower and slower": lambda share: 1 + 4 * share,
    "faster and faster": lambda share: 5 - 4 * share,
    "in bursts": lambda share: 3.0 if int(20 * share) % 2 else 1.0,
    "in short bursts": lambda share: 4.0 if int(200 * share) % 3 else 1.0,
    "half as fast near the end": lambda share: 2.0 if share > 0.95 else 1.0,
    "twice as fast near the end": lambda share: 0.5 if share > 0.9 else 1.0,
    "ten times slower near the end": lambda share: 10.0 if share > 0.97 else 1.0,
    "ten times slower than planned at first": lambda share: 10.0 if share < 0.4 else 1.0,
}


class Clock:
    """Shows what it is set to."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Costs:
    """Seconds on a quiet machine: of the start, an iteration, one that is the first, an evaluated block, a save, a
    sample, and a look for copies in samples.

    The process may be stopped for a while: in what, from which share of its minutes on, and for how many seconds.
    """

    start: float = 0.0
    iteration: float = 0.03
    first: float = 0.03
    block: float = 0.001
    save: float = 0.05
    sample: float = 0.0
    trace: float = 0.0
    slowness: Slowness = BUSY["quiet"]
    stopped: tuple[str, float, float] | None = None


def live(
    run: Run, costs: Costs, evaluated: list[int] | None = None, traced: list[float] | None = None
) -> tuple[float, float]:
    """Let a run pass as its trainer would, without computing; return its seconds and its last learning rate.

    The iterations at which it is evaluated are added to `evaluated`, and the seconds of looks for copies to `traced`.
    """
    settings, state = run.settings, run.state
    assert settings.minutes is not None
    minutes = settings.minutes
    clock = Clock(costs.start)
    pace, rate = Pace(run, 0.0, clock=clock, computed=clock), 0.0
    blocks, whole = sum(blocks_of_an_evaluation(run)), blocks_of_val(run)

    stops = [] if costs.stopped is None else [costs.stopped]

    def spend(seconds: float, kind: str = "") -> float:
        share = clock.seconds / (60 * minutes)
        spent = seconds * costs.slowness(share)
        if stops and stops[0][0] == kind and share > stops[0][1]:
            spent += stops.pop()[2]
        clock.seconds += spent
        return spent

    def look() -> float:
        part = pace.part_of_trace(ending=state.iteration >= run.settings.max_iters)
        seconds = spend(costs.trace * part)
        if part:
            pace.count_trace(seconds, part)
        if traced is not None:
            traced.append(seconds)
        return seconds

    if costs.trace:
        pace.expect_trace(costs.trace)
    while True:
        if evaluation_is_due(state, run.settings):
            evaluation = spend(costs.block * blocks, "evaluation")
            pace.count_evaluation(evaluation)
            looked = look() if costs.trace and state.iteration else 0.0
            pace.count_pause(evaluation + looked + spend(costs.save))
            state.evaluated_iteration = state.iteration
            if evaluated is not None:
                evaluated.append(state.iteration)
        if sample_is_due(state, run.settings):
            pace.count_sample(spend(costs.sample))
        if state.iteration >= run.settings.max_iters:
            break
        rate = learning_rate(state.iteration, run.settings)
        seconds = spend(costs.iteration if state.iteration else costs.first, "iteration")
        state.iteration += 1
        state.train_seconds += seconds
        pace.count(seconds)
        if pace.is_off():
            length = pace.fitting_iterations()
            assert length is not None
            run.change_length(length, pace.fitting_interval())
    if costs.trace:  # of the best weights
        look()
    parts = pace.parts_of_last_evaluation()
    for part in range(parts):
        if part and not pace.has_time_for_a_part():
            break
        spend(costs.block * whole / parts)
    return clock.seconds, rate


def check(run: Run, seconds: float, rate: float, *, late: float = 0.0) -> None:
    """Check what a run with minutes promises."""
    settings = run.settings
    assert settings.minutes is not None
    given = 60 * settings.minutes
    assert seconds <= given + max(LATE_SECONDS, LATE_SHARE * given, late)
    assert seconds >= (1 - MOST_UNUSED) * given
    assert rate - settings.min_lr <= 0.2 * (settings.learning_rate - settings.min_lr)


@pytest.fixture
def run_of(tiny: MakeSettings) -> Callable[..., Run]:
    made = set_up(tiny(minutes=1.0))

    def make(*, minutes: float, planned: float, costs: Costs) -> Run:
        """Return a run that was planned to be so many times as long as its minutes are on a quiet machine."""
        length = max(1, int(planned * 60 * minutes / costs.iteration))
        made.state.iteration, made.state.seconds, made.state.train_seconds = 0, 0.0, 0.0
        made.state.evaluated_iteration = None
        made.settings = made.settings.model_copy(
            update={
                "minutes": minutes,
                "max_iters": length,
                "lr_decay_iters": length,
                "warmup_iters": min(200, round(0.03 * length)),
                "eval_interval": max(1, length // 10),
                "sample_interval": max(1, length // 10),
            }
        )
        return made

    return make


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("minutes", [0.2, 1.0, 3.0, 60.0])
def test_a_run_keeps_its_minutes_whatever_the_machine_does(
    run_of: Callable[..., Run], busy: str, minutes: float
) -> None:
    for planned in (0.1, 10.0):
        costs = Costs(iteration=0.05 * max(1.0, minutes / 2), first=0.2, slowness=BUSY[busy])
        run = run_of(minutes=minutes, planned=planned, costs=costs)
        seconds, rate = live(run, costs)
        check(run, seconds, rate)


@pytest.mark.parametrize(
    ("minutes", "costs"),
    [
        (3.0, Costs(start=60.0)),
        (3.0, Costs(first=30.0)),
        (3.0, Costs(iteration=4.0, first=9.0)),
        (0.2, Costs(iteration=0.001, first=0.5)),
        (0.5, Costs(iteration=0.002)),
        (3.0, Costs(block=0.05)),
        (1.0, Costs(save=1.0)),
        (60.0, Costs(iteration=40.0, first=60.0)),
        (1.0, Costs(sample=2.0)),
        (3.0, Costs(trace=4.0)),
    ],
)
def test_a_run_keeps_its_minutes_whatever_is_slow(run_of: Callable[..., Run], minutes: float, costs: Costs) -> None:
    for planned in (0.2, 1.0, 5.0):
        run = run_of(minutes=minutes, planned=planned, costs=costs)
        seconds, rate = live(run, costs)
        check(run, seconds, rate)


def test_where_the_machine_stands_still_the_last_iterations_still_have_small_rates(run_of: Callable[..., Run]) -> None:
    stopped = [0.0]

    def slowness(share: float) -> float:
        if share > 0.4 and not stopped[0]:
            stopped[0] = share
            return 120 / 0.03  # one iteration takes two of the three minutes
        return 1.0

    costs = Costs(slowness=slowness)
    run = run_of(minutes=3.0, planned=1.0, costs=costs)
    seconds, rate = live(run, costs)
    check(run, seconds, rate, late=15.0)


@pytest.mark.parametrize(("trace", "least"), [(0.01, 10), (0.3, 4), (1.0, 2), (20.0, 2)])
def test_looks_for_copies_take_a_small_share(run_of: Callable[..., Run], trace: float, least: int) -> None:
    costs, traced = Costs(trace=trace), list[float]()
    run = run_of(minutes=3.0, planned=1.0, costs=costs)
    seconds, _ = live(run, costs, traced=traced)
    assert sum(traced) <= max(TRACED_SHARE * seconds, 2 * LEAST_OF_TRACE * trace)
    assert sum(seconds > 0 for seconds in traced) >= least


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.6])
@pytest.mark.parametrize("kind", ["iteration", "evaluation"])
def test_a_process_that_is_stopped_for_a_while_uses_the_rest_of_its_minutes(
    run_of: Callable[..., Run], kind: str, share: float
) -> None:
    costs = Costs(iteration=0.05, stopped=(kind, share, 20.0))
    run = run_of(minutes=1.0, planned=1.0, costs=costs)
    seconds, rate = live(run, costs)
    check(run, seconds, rate)
    assert run.state.iteration > 0.8 * (60 - 20) / costs.iteration


def test_what_is_slow_twice_in_a_row_is_slow(run_of: Callable[..., Run]) -> None:
    pace = Pace(run_of(minutes=3.0, planned=1.0, costs=Costs()), 0.0, clock=Clock())
    for seconds, is_slow in [(0.1, False), (0.1, False), (10.0, False), (0.1, False), (10.0, False), (10.0, True)]:
        pace.count(seconds)
        assert ((pace.iteration_seconds() or 0.0) > 1.0) == is_slow


@pytest.mark.parametrize("planned", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_evaluations_are_an_interval_apart_and_none_is_soon_before_the_last(
    run_of: Callable[..., Run], planned: float
) -> None:
    costs = Costs(iteration=0.05, block=0.02, slowness=BUSY["in bursts"])
    run = run_of(minutes=1.0, planned=planned, costs=costs)
    run.settings = run.settings.model_copy(update={"defaults": "scaled"})
    least = run.settings.eval_interval
    evaluated: list[int] = []
    live(run, costs, evaluated)
    gaps = [after - before for before, after in pairwise(evaluated)]
    assert all(gap >= least for gap in gaps[:-1])
    assert evaluated[-1] == run.state.iteration
    assert gaps[-1] >= min(run.settings.eval_interval / 2, SOON * run.state.iteration)


def test_a_part_of_the_validation_split_is_evaluated_where_the_whole_would_take_the_minutes(
    run_of: Callable[..., Run],
) -> None:
    run = run_of(minutes=1.0, planned=1.0, costs=Costs())
    run.settings = run.settings.model_copy(update={"eval_interval": 10_000})
    run.state.evaluated_iteration = 0
    clock = Clock(20.0)
    pace = Pace(run, 0.0, clock=clock, computed=clock)
    for _ in range(100):
        pace.count(0.03)
    evaluation = 0.5 * sum(blocks_of_an_evaluation(run))  # so the whole split would take half of the minutes
    pace.count_evaluation(evaluation)
    assert blocks_of_val(run) * 0.5 > 6
    assert pace.parts_of_last_evaluation() > 6
    assert pace.has_time_for_a_part()
    assert pace.fitting_iterations() == int((60 - 20 - SPARE_SECONDS - 0.08 * 60 - evaluation) / 0.03)


def test_evaluations_that_take_long_are_fewer_where_the_rules_decide(run_of: Callable[..., Run]) -> None:
    costs = Costs(iteration=0.05, block=0.15)
    run = run_of(minutes=3.0, planned=1.0, costs=costs)
    run.settings = run.settings.model_copy(update={"defaults": "scaled", "block_size": 4})
    evaluation = costs.block * sum(blocks_of_an_evaluation(run))
    assert 10 * evaluation > 40
    seconds, rate = live(run, costs)
    check(run, seconds, rate)
    assert run.state.train_seconds > 0.65 * seconds


def test_a_program_that_others_slow_down_has_longer_to_end(run_of: Callable[..., Run]) -> None:
    run = run_of(minutes=3.0, planned=1.0, costs=Costs())
    lengths = []
    for share_of_the_core in (1.0, 0.25):
        clock, computed = Clock(), Clock()
        pace = Pace(run, 0.0, clock=clock, computed=computed)
        for _ in range(100):
            clock.seconds += 0.1
            computed.seconds += 0.1 * share_of_the_core
            pace.count(0.1)
        lengths.append(pace.fitting_iterations() or 0)
    assert lengths[0] - lengths[1] == pytest.approx(3 * SPARE_SECONDS / 0.1, abs=1)


def test_a_short_text_is_not_read_for_ever(run_of: Callable[..., Run]) -> None:
    costs = Costs(iteration=0.3)
    run = run_of(minutes=60.0, planned=0.001, costs=costs)
    run.settings = run.settings.model_copy(update={"defaults": "scaled"})
    enough = enough_iterations(run.settings, run.mixture.train_tokens)
    seconds, _ = live(run, costs)
    assert run.settings.max_iters == run.state.iteration == enough
    assert seconds < 1800


def test_without_minutes_the_length_stays(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    pace = Pace(run, 0.0, clock=Clock())
    pace.count(100.0)
    assert not pace.is_off()
    assert pace.fitting_iterations() is None


def test_iterations_faster_than_the_clock_shows_change_nothing(run_of: Callable[..., Run]) -> None:
    run = run_of(minutes=1.0, planned=1.0, costs=Costs())
    pace = Pace(run, 0.0, clock=Clock())
    pace.count(0.0)
    assert not pace.is_off()


def test_the_rise_of_the_rates_never_takes_most_of_a_run(run_of: Callable[..., Run]) -> None:
    run = run_of(minutes=3.0, planned=10.0, costs=Costs())
    assert run.settings.warmup_iters == 200
    run.change_length(100)
    assert run.settings.warmup_iters == LONGEST_WARMUP_SHARE * 100


def test_a_trainer_follows_its_clock(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole loop, whose iterations and evaluations take as long as the clock is told."""
    settings = tiny(minutes=1.0, max_iters=1000, lr_decay_iters=1000, warmup_iters=100, eval_interval=20, patience=0)
    run, clock = set_up(settings), Clock()
    step, evaluate = make_step(run), loop.evaluate_splits

    def slowness() -> float:
        return 1.0 if clock.seconds < 30 else 5.0

    def slow_step(*given: Any) -> Any:
        clock.seconds += 0.3 * slowness()
        return step(*given)

    def slow_evaluation(*given: Any) -> Any:
        clock.seconds += 0.3 * slowness()
        return evaluate(*given)

    def slow_score(*given: Any, **options: Any) -> Any:
        clock.seconds += 0.3 * slowness() * len(given[3]) / sum(blocks_of_an_evaluation(run))
        return score(*given, **options)

    score = finish.score_windows
    monkeypatch.setattr(finish, "score_windows", slow_score)
    monkeypatch.setattr(loop, "evaluate_splits", slow_evaluation)
    slow_step.synchronize, slow_step.compiled, slow_step.record = step.synchronize, step.compiled, step.record  # type: ignore[attr-defined]
    trainer = Trainer(run, slow_step, interruption=Interruption(), started=0.0, occupation=None, clock=clock)  # type: ignore[arg-type]
    assert trainer.run_to_the_end()
    summary = trainer.summarize()
    assert 54 <= clock.seconds <= 65
    assert (summary.val_loss_full is None) == (summary.val_part is not None)
    written = tomllib.loads((tmp_path / "out/config.toml").read_text(encoding="utf-8"))
    assert written["max_iters"] == written["lr_decay_iters"] == run.state.iteration
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["lr"] for row in rows if row["kind"] == "train"][-1] < 2 * settings.min_lr
    assert rows[-1]["iter"] == run.state.iteration


def test_a_run_ends_on_time_and_writes_down_its_length(tiny: MakeSettings, tmp_path: Path) -> None:
    settings = tiny(minutes=0.1, max_iters=1_000_000, lr_decay_iters=1_000_000, eval_interval=1000)
    summary = train(settings)
    assert summary is not None
    assert summary.iterations < 100_000
    assert summary.wall_seconds < 60  # six seconds on a machine with nothing else to do
    written = tomllib.loads((tmp_path / "out/config.toml").read_text(encoding="utf-8"))
    assert written["max_iters"] == written["lr_decay_iters"] == summary.iterations


def test_a_run_whose_text_took_all_of_the_minutes_to_prepare_trains_for_a_quarter_of_them_and_says_so(
    tiny: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(minutes=0.1, max_iters=1_000_000, lr_decay_iters=1_000_000, eval_interval=1000)
    summary = train(settings, started=time.perf_counter() - 600)
    assert summary is not None
    assert 0 < summary.iterations < 100_000
    said = " ".join(capsys.readouterr().err.split())
    found = re.search(r"it took (\d+):(\d+) to start .* so this run ends (\d+):(\d+) after its 0.1 min", said)
    assert found is not None, said
    minutes, seconds, late_minutes, late_seconds = map(int, found.groups())
    assert 60 * (minutes - late_minutes) + seconds - late_seconds in (4, 5)  # three quarters of six, rounded


def test_the_start_of_each_session_counts_as_minutes(tiny: MakeSettings) -> None:
    run = set_up(tiny(minutes=1.0, max_iters=1000, lr_decay_iters=1000))
    lengths = []
    for _ in range(3):  # sessions that are interrupted after ten iterations
        clock = Clock()
        trainer = Trainer(run, make_step(run), interruption=Interruption(), started=-15.0, occupation=None, clock=clock)
        for _ in range(10):
            clock.seconds += 0.1
            run.state.iteration += 1
            trainer.pace.count(0.1)
        run.state.seconds += clock.seconds
        lengths.append(trainer.pace.fitting_iterations() or run.settings.max_iters)
    assert run.state.start_seconds == 45.0
    assert lengths[0] - lengths[2] == pytest.approx(2 * (15 + 1) / 0.1 - 20, abs=5)


def test_a_finished_run_goes_on_when_it_is_given_more_minutes(tiny: MakeSettings) -> None:
    first = train(tiny(minutes=0.01, max_iters=5, lr_decay_iters=5))
    assert first is not None
    lengths = []
    for minutes in (0.01, 10.0):
        run = set_up(tiny(minutes=minutes, init_from="resume", max_iters=first.iterations))
        trainer = Trainer(run, make_step(run), interruption=Interruption(), started=0.0, occupation=None, clock=Clock())
        trainer.go_on_for_minutes()
        lengths.append(run.settings.max_iters)
    assert lengths[0] == first.iterations
    assert lengths[1] > first.iterations + 20
