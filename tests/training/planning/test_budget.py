"""From a text and minutes to settings, by steps that are really measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quillgpt.checkpoint import load_run
from quillgpt.checkpoint.names import REPLACED
from quillgpt.config import TrainSettings, resolve
from quillgpt.config.schema import MOST_MODELS
from quillgpt.device import Memory
from quillgpt.measuring import Allowance
from quillgpt.model import GPT
from quillgpt.plots.record import read_metrics
from quillgpt.training import pace, session, train
from quillgpt.training.planning import budget, scaling
from quillgpt.training.planning.dry_run import predict_run
from quillgpt.training.planning.scaling import Text, cost_of
from quillgpt.training.start import choices
from quillgpt.training.start.model_config import config_for
from quillgpt.training.start.setup import set_up
from quillgpt.training.start.starting_point import StartingPoint, find_starting_point


@pytest.fixture
def own(tmp_path: Path, tiny: object) -> Any:  # tiny makes the text
    def make(**flags: Any) -> TrainSettings:
        places = {"dataset": "tiny", "data_dir": str(tmp_path / "data"), "out_dir": str(tmp_path / "own")}
        machine = {"threads": "1", "device": "cpu", "compile": "False"}  # whether compiling gains is not asked here
        return resolve("own_text", {**places, **machine, **flags}, environ={}, dotenv=None)

    return make


def test_minutes_decide_size_and_length(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "MOST_PARAMETERS_PER_TOKEN", 1e6)  # for the tests have little text
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 1e9)
    slow = set_up(own(minutes="2")).settings
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 4e11)
    fast = set_up(own(minutes="2", overwrite="true")).settings
    assert fast.n_embd > slow.n_embd
    assert (fast.minutes, fast.model_iters) == (2.0, fast.lr_decay_iters)


@pytest.mark.parametrize(
    ("planned", "bytes_per_parameter", "grows", "replacing"),
    [(1e8, 0.01, True, False), (3e12, 8.0, False, True)],
    ids=["planned for a slow machine", "planned for a fast machine, and there was a run before"],
)
def test_a_run_begins_again_where_its_speed_asks_for_another_size(
    own: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    planned: float,
    bytes_per_parameter: float,
    grows: bool,
    replacing: bool,
) -> None:
    monkeypatch.setattr(scaling, "MOST_PARAMETERS_PER_TOKEN", 1e6)  # for the tests have little text
    monkeypatch.setattr(scaling, "MOST_PASSES", 1e6)
    monkeypatch.setattr(scaling, "BYTES_PER_PARAMETER", bytes_per_parameter)
    monkeypatch.setattr(pace, "SIZE_SECONDS", 0.1)
    monkeypatch.setattr(scaling, "TOO_FAST", 1.5)  # also where other programs leave this one a part of the processor
    if replacing:
        assert train(own(max_iters="2", n_embd="32", n_layer="1")) is not None
    monkeypatch.setattr(budget, "measured_rate", lambda *_: planned)
    made = []
    monkeypatch.setattr(session, "set_up", lambda *given, **options: made.append(set_up(*given, **options)) or made[-1])
    settings = own(minutes="0.1", overwrite=str(replacing))
    assert train(settings) is not None
    first, last = (run.model.parameter_count() for run in made)
    assert (last > first) if grows else (last < first)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("so the run begins again") == 1
    assert "the first iterations ran at" in said
    rows = read_metrics(Path(settings.out_dir) / "metrics.jsonl")
    iterations = [row["iter"] for row in rows if row["kind"] == "train"]
    assert iterations == sorted(iterations)
    assert iterations[-1] == made[-1].state.iteration == made[-1].settings.max_iters
    assert not list(Path(settings.out_dir).rglob(REPLACED))
    assert load_run(Path(settings.out_dir))[0].build().parameter_count() == last


def test_only_a_speed_far_from_the_planned_one_asks_for_another_size(own: Any) -> None:
    text, given = Text(5_000_000, 500_000, "bpe", 1024, 2.7), own(block_size="256")
    for flops in (1e12, 1e13, 1e14):
        sized = scaling.with_size(given, text, flops)
        config = config_for(sized, text.tokenizer, text.vocab_size)
        wrong = [scaling.is_of_wrong_size(config, given, text, flops * factor) for factor in (0.05, 0.6, 1, 3, 30)]
        assert wrong == [config.n_embd > 48, False, False, False, True]  # there is no smaller model than the smallest
        assert not scaling.is_of_wrong_size(config, sized, text, 0.05 * flops)  # a size that is set stays


def test_a_model_is_smaller_where_preparing_the_text_took_long(
    own: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling, "MOST_PARAMETERS_PER_TOKEN", 1e6)
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 4e11)
    chosen = []
    for passed in (0, 3, 90, 600):
        settings = set_up(own(minutes="2", overwrite="true"), started=time.perf_counter() - passed).settings
        said = "of the 2 min are over" in " ".join(capsys.readouterr().err.split())
        chosen.append((settings.n_layer, settings.n_embd))
        assert said == (passed > 12)
    assert chosen[0] == chosen[1] > chosen[2] >= chosen[3]
    assert chosen[3][1] > 48  # a quarter of the minutes is planned for at least


def test_iterations_that_are_set_stay_and_need_no_minutes(own: Any) -> None:
    settings = set_up(own(max_iters="7", n_embd="32", n_layer="1")).settings
    assert (settings.minutes, settings.max_iters, settings.lr_decay_iters) == (None, 7, 7)


def test_without_either_there_are_the_usual_minutes(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = set_up(own(n_embd="32", n_layer="1", teacher_iters="0"))
    assert run.settings.minutes == budget.USUAL_MINUTES
    said = " ".join(capsys.readouterr().err.split())
    assert "chosen for 3 min;" in said
    assert "so the run ends before its time" in said  # 1,500 words are soon read often enough
    reasons = run.machine.reasons
    measured, size = reasons["n_layer"].split(" with 1 x 32: ")
    assert measured in said
    assert size in said
    assert reasons["max_iters"].endswith("so the run ends before its time")
    assert reasons["tokenizer"] == "that of the data set"


def test_a_text_that_is_soon_read_often_enough_is_learnt_by_teachers_first(
    own: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = set_up(own(n_embd="32", n_layer="1"))
    settings = run.settings
    assert settings.models == MOST_MODELS
    assert settings.teacher_iters == scaling.enough_iterations(settings, run.mixture.train_tokens)
    said = " ".join(capsys.readouterr().err.split())
    assert f"for each of {MOST_MODELS} models: teachers, and one that they teach" in said
    assert "40 passes are as many as help, and the run may end before its time" in said
    assert "there is time for others, which teach the last one" in run.machine.reasons["teacher_iters"]


def test_a_model_that_is_too_large_to_train_whole_gets_adapters(
    own: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(own(max_iters="2", n_embd="256", n_layer="4", n_head="4"))
    finetuning = {"init_from": str(tmp_path / "own"), "out_dir": str(tmp_path / "tuned"), "max_iters": "2"}
    assert set_up(own(**finetuning)).settings.lora_rank == 0
    monkeypatch.setattr(budget, "memory", lambda _: Memory(total=1 << 34, free=55_000_000))
    chosen = set_up(own(**finetuning)).settings
    assert (chosen.lora_rank, chosen.optimizer) == (budget.ADAPTER_RANK, "adamw")
    assert "so adapters of rank 16 are trained" in capsys.readouterr().err
    assert set_up(own(**finetuning, lora_rank="0")).settings.lora_rank == 0
    assert train(own(**finetuning)) is not None


def test_a_dry_run_chooses_alike(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 1e9)
    planned, made = predict_run(own(minutes="1")).settings, set_up(own(minutes="1")).settings
    for name in ("n_layer", "n_embd", "block_size", "batch_size", "max_iters", "dropout"):
        assert getattr(planned, name) == getattr(made, name)


def test_a_resumed_run_keeps_what_was_chosen(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 1e8)
    first = own(minutes="0.1")
    assert train(first) is not None
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 1e13)
    again = set_up(own(init_from="resume"))
    assert again.resumed
    assert again.settings.n_embd == set_up(own(minutes="0.1", init_from="resume")).settings.n_embd < 200


def test_finetuning_takes_the_parents_shape_and_small_steps(own: Any, tmp_path: Path) -> None:
    scratch = own(max_iters="4", n_layer="1", n_embd="32", block_size="32", eval_interval="4")
    assert train(scratch) is not None
    tuned = set_up(own(init_from=str(tmp_path / "own"), out_dir=str(tmp_path / "tuned"), minutes="0.2")).settings
    assert (tuned.n_layer, tuned.n_embd, tuned.block_size) == (1, 32, 32)
    chosen = set_up(own(max_iters="4", out_dir=str(tmp_path / "other"), n_layer="1", n_embd="32")).settings
    assert tuned.muon_learning_rate == pytest.approx(chosen.muon_learning_rate / 10)


USUAL_RATE = 3e10


@pytest.fixture
def fit_slowly(own: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TrainSettings, float]]:
    """Choose size and length on a machine so many times slower than usual; return the settings and the seconds left."""

    def fit(slowness: float, **flags: str) -> tuple[TrainSettings, float]:
        start: StartingPoint = find_starting_point(
            own(attn_path="explicit", dtype="bfloat16", overwrite="true", **flags)
        )
        now = [0.0]
        allowance = Allowance(start.settings.minutes, clock=lambda: now[0])
        start = replace(start, machine=replace(start.machine, allowance=allowance))
        monkeypatch.setattr(time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(budget, "usual_rate", lambda _: USUAL_RATE)

        def slow_step(
            model: GPT, _: object, __: object, settings: TrainSettings, *___: object
        ) -> Callable[[int], None]:
            def step(_: int) -> None:
                now[0] += slowness * settings.tokens_per_iteration * cost_of(model.config).flops_per_token / USUAL_RATE

            return step

        monkeypatch.setattr(budget, "trial_step", slow_step)
        text = Text(10_000_000, 1_000_000, "char", 65)
        start, config = budget.choose_context(start, text)
        settings, _ = budget.fit_to_budget(start, text, np.zeros(1000, dtype=np.uint16), config)
        return settings, allowance.left

    return fit


@pytest.mark.parametrize("minutes", [0.5, 4.0])
def test_sizes_are_tried_in_time_however_slow_the_machine_is(fit_slowly: Any, minutes: float) -> None:
    widths = []
    for slowness in (0.1, 1.0, 5.0, 50.0, 500.0):
        settings, left = fit_slowly(slowness, minutes=str(minutes))
        assert left > 0
        widths.append(settings.n_embd)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[2] > 0


def test_what_there_is_no_time_to_try_is_assumed_and_said(fit_slowly: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, left = fit_slowly(100.0, minutes="0.5", n_layer="8", n_embd="1024", n_head="8")
    assert left > 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no step could be tried in time, and one is assumed at 0.03 TFLOP/s" in said


def test_the_path_of_attention_is_chosen_by_rule_where_there_is_no_time(
    own: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    run = set_up(own(max_iters="1", n_embd="32", n_layer="1", attn_path="explicit", arch="gpt2"))
    settings = own(max_iters="1", batch_size="2", dropout="0", dtype="bfloat16", arch="gpt2")
    late = choices.Machine(torch.device("cpu"), torch.float16)  # for which there are no kernels of whole blocks
    late.allowance.left = 0.0
    for machine, by_rule in ((late, True), (replace(late, allowance=Allowance()), False)):
        chosen = choices.choose_paths(settings, run.model.config, machine)
        assert chosen.attn_path in ("explicit", "sdpa")
        assert ("by rule: there was no time to measure" in capsys.readouterr().err) == by_rule
