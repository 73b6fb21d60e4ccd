"""Runs that train teachers first: what each model learns from, resuming, rollbacks, the clock."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from equality import assert_equal_runs
from quillgpt.api import load
from quillgpt.checkpoint import load_run
from quillgpt.checkpoint.load import load_own_teachers
from quillgpt.checkpoint.save import OWN_TEACHERS
from quillgpt.config import TrainSettings, resolve
from quillgpt.config.schema import MOST_MODELS
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.model.distillation import Teachers
from quillgpt.optim.schedule import learning_rate
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.own_teachers import begin_model, begins_model, restore_teachers
from quillgpt.training.pace import Pace
from quillgpt.training.planning import scaling
from quillgpt.training.planning.dry_run import predict_run
from quillgpt.training.start.setup import set_up
from quillgpt.training.step import TrainStep

from .conftest import MakeSettings, Steps
from .test_resume import train_until


@pytest.fixture
def three(tiny: MakeSettings) -> MakeSettings:
    """Make settings of a run of two teachers and the model that they teach, of four iterations each."""

    def make(**changes: Any) -> TrainSettings:
        usual = {"teacher_iters": 4, "lr_decay_iters": 4, "max_iters": 12, "eval_interval": 2, "seed": 5}
        return tiny(**(usual | changes))

    return make


def evaluations(run: Path) -> dict[int, float]:
    return {row["iter"]: row["val_loss"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "eval"}


def test_each_model_begins_anew_and_the_others_teach_the_last_one(
    three: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    run = set_up(three(tied=False))
    steps = Steps(run)
    first = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
    seen = []
    for iteration in range(12):
        run.state.iteration = iteration
        if begins_model(run):
            trained = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
            begin_model(run, steps.step)
            assert all(torch.equal(tensor, trained[name]) for name, tensor in run.own_teachers[-1].named_parameters())
            weights = run.starting_weights(len(run.own_teachers))
            assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model.named_parameters())
            assert not torch.equal(weights["head.weight"], first["head.weight"])
            assert not run.optimizers.state()
            seen.append((iteration, len(run.teachers.models) if run.teachers else 0))
        steps(iteration)
    assert seen == [(4, 0), (8, 2)]
    assert run.teachers == Teachers(tuple(run.own_teachers), 0.5)
    said = " ".join(capsys.readouterr().err.split())
    assert "model 2 of 3: another teacher, from fresh weights; the best one is kept" in said
    assert "model 3 of 3: the last one, which the 2 before teach, from fresh weights; the best one is kept" in said


def test_the_first_model_is_that_of_the_run_that_there_would_be_without_others(
    three: MakeSettings, tiny: MakeSettings, tmp_path: Path
) -> None:
    train(three(out_dir=str(tmp_path / "three")))
    train(tiny(out_dir=str(tmp_path / "one"), max_iters=4, lr_decay_iters=4, eval_interval=2, seed=5))
    found, alone = evaluations(tmp_path / "three"), evaluations(tmp_path / "one")
    assert {iteration: found[iteration] for iteration in alone} == alone
    assert list(found) == [0, 2, 4, 6, 8, 10, 12]
    assert found[6] > found[4]


def test_a_checkpoint_has_the_teachers_as_they_were_at_their_ends(
    three: MakeSettings, tiny: MakeSettings, tmp_path: Path
) -> None:
    train(three(out_dir=str(tmp_path / "three"), max_iters=8))
    _, stored = load_run(tmp_path / "three")
    assert stored.state.taught
    (weights,) = stored.own_teachers
    train(tiny(out_dir=str(tmp_path / "one"), max_iters=4, lr_decay_iters=4, seed=5))
    for name, tensor in load(tmp_path / "one", device="cpu", dtype="float32").gpt.named_parameters():
        assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("stop", [3, 4, 7, 8, 9])
@pytest.mark.parametrize("kind", ["explicit", "fused", "average"])
def test_resumed_equals_uninterrupted(
    three: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stop: int
) -> None:
    changes: dict[str, Any] = {"attn_path": "explicit", "dropout": 0.1}
    if kind == "fused":
        changes |= {"attn_path": "fused", "arch": "qwen3", "optimizer": "muon", "muon_beta2": 0.9, "tied": False}
    if kind == "average":
        changes["ema_decay"] = 0.9
    train(three(out_dir=str(tmp_path / "whole"), **changes))
    parts = three(out_dir=str(tmp_path / "parts"), **changes)
    train_until(parts, stop, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_resumed_run_says_who_teaches_it(
    three: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = three(out_dir=str(tmp_path / "parts"))
    train_until(parts, 9, monkeypatch)
    assert "their mean probabilities" not in " ".join(capsys.readouterr().err.split())
    train(parts.model_copy(update={"init_from": "resume"}))
    said = " ".join(capsys.readouterr().err.split())
    assert "teachers 2 that this run has trained: 0.5 of the targets is their mean probabilities" in said


def test_a_rollback_at_the_start_of_a_model_goes_back_to_the_end_of_the_one_before(
    three: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = TrainStep.forward_backward
    poisoned = []

    def poison(self: TrainStep, *batch: Any) -> Any:
        loss = plain(self, *batch)
        teachers = self._objective.teachers
        if teachers is not None and len(teachers.models) == 2 and not poisoned:
            poisoned.append(True)
            return loss * float("nan")
        return loss

    monkeypatch.setattr(TrainStep, "forward_backward", poison)
    train(three(out_dir=str(tmp_path / "run")))
    _, stored = load_run(tmp_path / "run")
    assert [(each.iteration, each.back_to) for each in stored.state.rollbacks] == [(8, 8)]
    assert len(stored.own_teachers) == 2
    assert stored.state.iteration == 12
    assert len(poisoned) == 1


def test_a_finished_run_goes_on_with_a_model_that_all_before_teach(three: MakeSettings, tmp_path: Path) -> None:
    train(three(out_dir=str(tmp_path / "run"), max_iters=8))
    train(three(out_dir=str(tmp_path / "run"), init_from="resume"))
    _, stored = load_run(tmp_path / "run")
    assert (stored.state.iteration, stored.state.taught, len(stored.own_teachers)) == (12, True, 2)


def test_the_learning_rate_is_that_of_each_model_and_only_the_last_one_costs_more(three: MakeSettings) -> None:
    settings = three()
    rates = [learning_rate(iteration, settings) for iteration in range(12)]
    assert rates[:4] == rates[4:8] == rates[8:]
    assert (settings.models, settings.model_iters) == (3, 4)
    assert [scaling.work_until(iteration, settings) for iteration in (6, 8)] == [6, 8]
    assert scaling.work_until(12, settings) == pytest.approx(4 * scaling.work_of_models(3)) == 8 + 4 * 5 / 3
    alone = three(teacher_iters=0)
    assert (alone.models, alone.model_iters, scaling.work_until(12, alone)) == (1, 12, 12)


def test_a_model_that_is_cut_short_still_ends_at_small_learning_rates(three: MakeSettings) -> None:
    settings = three(minutes=1.0, lr_decay_iters=600_000, lr_schedule="wsd", decay_fraction=0.8, min_lr=0.0)
    lengths = {"max_iters": 26, "teacher_iters": 10, "warmup_iters": 1}
    rates = [learning_rate(i, settings.model_copy(update=lengths)) for i in range(26)]
    assert rates[:10] == rates[10:20]
    assert rates[9] < settings.learning_rate / 5
    assert rates[25] < settings.learning_rate / 2
    run = set_up(settings)
    run.change_length(7)
    assert (run.settings.teacher_iters, run.settings.lr_decay_iters, run.settings.warmup_iters) == (4, 4, 0)


def test_a_model_that_becomes_the_last_one_on_the_way_is_taught_from_there(
    three: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = three(out_dir=str(tmp_path / "run"))
    train_until(parts, 6, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume", "max_iters": 8}))
    assert "those before teach it from here on" in " ".join(capsys.readouterr().err.split())
    _, stored = load_run(tmp_path / "run")
    assert (stored.state.iteration, stored.state.taught, len(stored.own_teachers)) == (8, True, 1)


def test_a_run_that_began_from_another_model_gets_no_teachers_of_fresh_weights(
    tiny: MakeSettings, tmp_path: Path
) -> None:
    train(tiny(out_dir=str(tmp_path / "base"), max_iters=2))
    tuned = {"out_dir": str(tmp_path / "tuned"), "lora_rank": 2}
    train(tiny(**tuned, init_from=str(tmp_path / "base"), max_iters=2))
    with pytest.raises(ConfigError, match="teacher_iters = 2 begins models from fresh weights, and the run in"):
        train(tiny(**tuned, init_from="resume", max_iters=4, teacher_iters=2))


def test_a_run_with_teachers_is_finetuned_as_one_model(three: MakeSettings, tmp_path: Path) -> None:
    out_dir = str(tmp_path / "run")
    train(three(out_dir=out_dir, max_iters=8))
    settings = resolve(None, {"init_from": "finetune", "out_dir": out_dir}, environ={}, dotenv=None)
    assert (settings.teacher_iters, settings.max_iters) == (0, 4)


def test_what_does_not_go_with_own_teachers_is_refused_in_one_line(three: MakeSettings) -> None:
    with pytest.raises(
        ValueError, match=r"max_iters = 10 is not a multiple of teacher_iters = 4, .*use max_iters = 8 or 12"
    ):
        three(max_iters=10)
    with pytest.raises(ValueError, match=r"use max_iters = 4\b"):
        three(max_iters=3)
    for changes in ({"init_from": "gpt2"}, {"dtype": "float16"}, {"strategy": "fsdp"}, {"patience": 3}):
        ((name, value),) = changes.items()
        with pytest.raises(ValueError, match=f"{name} = {value} does not go with teacher_iters = 4"):
            three(**changes)


def test_teachers_of_another_shape_are_refused(three: MakeSettings, tmp_path: Path) -> None:
    run = set_up(three())
    run.state.iteration = 5
    with pytest.raises(CheckpointError, match=r"the teachers in .* are models of another shape"):
        restore_teachers(run, [{"head.weight": torch.zeros(3, 3)}], tmp_path)


def test_a_file_of_teachers_that_is_not_whole_is_refused(three: MakeSettings, tmp_path: Path) -> None:
    settings = three(out_dir=str(tmp_path / "run"))
    train(settings)
    folder = tmp_path / "run/checkpoints/last"
    teachers = load_file(folder / OWN_TEACHERS)
    renamed = {f"x/{name}" if name.startswith("1/") else name: tensor for name, tensor in teachers.items()}
    for damaged in (renamed, {"weights": torch.zeros(1)}):
        save_file(damaged, folder / OWN_TEACHERS)
        with pytest.raises(CheckpointError, match=r"teachers.safetensors is damaged: its tensors are named after"):
            load_own_teachers(folder)


@pytest.mark.parametrize("length", [0, 2])
def test_a_run_is_not_resumed_with_teachers_of_another_length(three: MakeSettings, tmp_path: Path, length: int) -> None:
    train(three(out_dir=str(tmp_path / "run"), max_iters=8))
    changed = {"out_dir": str(tmp_path / "run"), "init_from": "resume", "teacher_iters": length}
    with pytest.raises(CheckpointError, match=rf"has 1 teachers, and with teacher_iters = {length} it would have"):
        train(three(**changed))


def test_a_run_without_teachers_becomes_the_teacher_of_another_model(tiny: MakeSettings, tmp_path: Path) -> None:
    run = {"out_dir": str(tmp_path / "run"), "lr_decay_iters": 4, "seed": 5}
    train(tiny(**run, max_iters=4))
    train(tiny(**run, max_iters=8, teacher_iters=4, init_from="resume"))
    _, stored = load_run(tmp_path / "run")
    assert (stored.state.iteration, stored.state.taught, len(stored.own_teachers)) == (8, True, 1)


@pytest.mark.parametrize(
    ("defaults", "iteration", "taught", "seconds", "end"),
    [
        ("fixed", 2, False, 1.0, 3),  # not even the first one
        ("fixed", 2, False, 2.5, 4),
        ("fixed", 2, False, 2 + 4 * 4 / 3 + 0.5, 8),  # one that it teaches
        ("fixed", 4, False, 3.0, 4),
        ("fixed", 4, False, 4 + 4 * 5 / 3 + 0.5, 12),
        ("fixed", 4, False, 1000.0, MOST_MODELS * 4),
        ("scaled", 4, False, 1000.0, MOST_MODELS * 4),
        ("fixed", 9, True, 1000.0, 12),  # the last one is the last one
        ("fixed", 9, False, 2.0, 11),
        ("fixed", 9, False, 3.5, 12),  # which nobody teaches yet
        ("fixed", 9, False, 3.5 + 4 * 2, 16),
        ("fixed", 12, True, 1000.0, MOST_MODELS * 4),  # done, with time for more
    ],
)
def test_no_model_begins_that_the_time_would_cut_off(
    three: MakeSettings, defaults: str, iteration: int, taught: bool, seconds: float, end: int
) -> None:
    run = set_up(three(minutes=1000.0))
    run.settings = run.settings.model_copy(update={"defaults": defaults, "eval_interval": 10**6})
    run.state.iteration, run.state.taught = iteration, taught
    run.own_teachers = [run.model] * ((iteration - 1) // 4)
    factor = 5 / 3 if taught else 1.0
    cut = iteration + int(seconds / factor)
    assert Pace(run, 0.0, clock=lambda: 0.0)._end_of_models(factor, seconds, cut) == end


def test_the_rules_let_teachers_be_trained_for_a_short_text() -> None:
    def scaled(times: float, **given: str) -> TrainSettings:
        settings = resolve("own_text", {"data": "book.txt", "minutes": "3"} | given, environ={}, dotenv=None)
        text = scaling.Text(40_000, 4_000, "byte", 256)
        settings = scaling.with_size(scaling.with_block(settings, text, None), text, 1e13)
        cost = scaling.Cost(200_000, 1e6)
        enough = scaling.MOST_PASSES * 40_000 * cost.flops_per_token
        return scaling.with_schedule(settings, text, cost, times * enough)

    counts = [1, 2, 3, MOST_MODELS]
    planned = [scaled(times) for times in (0.5, 2.4, 3.7, 100)]
    assert [each.models for each in planned] == counts
    assert scaled(2.2).models == 1
    assert planned[0].teacher_iters == 0
    last = planned[-1]
    assert last.teacher_iters == last.lr_decay_iters == scaling.enough_iterations(last, 40_000)
    assert last.warmup_iters <= last.teacher_iters * 0.03 + 1
    assert (scaled(100, teacher_iters="700").teacher_iters, scaled(100, teacher_iters="700").models) == (
        700,
        MOST_MODELS,
    )
    assert scaled(0.1, teacher_iters="700").models == 1
    for flags in ({"teachers": "one"}, {"teacher_iters": "0"}, {"patience": "5"}, {"init_from": "gpt2"}):
        assert scaled(100, **flags).teacher_iters == 0


def test_a_dry_run_counts_the_time_and_memory_of_teachers(three: MakeSettings) -> None:
    one, all_three = (predict_run(three(teacher_iters=each)) for each in (0, 4))
    assert all_three.taught_iterations == pytest.approx(8 + 4 * 5 / 3)
    assert one.taught_iterations == 12
    assert all_three.memory.weights == 3 * one.memory.weights
