"""When a run stops by itself, and what it says of overfitting."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from equality import assert_equal_runs, assert_equal_tensors
from quillgpt.api import load
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config import TrainSettings
from quillgpt.data.prepare import prepare
from quillgpt.evaluation import score_split
from quillgpt.plots.record import read_metrics
from quillgpt.training import Interruption, train, trainer
from quillgpt.training.start.setup import set_up
from quillgpt.training.validation import Losses, evaluated_blocks, noise_of, overfitting, take_account

from .conftest import MakeSettings
from .test_resume import train_until

RISING = {0: 4.0, 4: 3.0, 8: 2.0, 12: 2.1, 16: 2.2, 20: 2.3, 24: 2.4, 28: 2.5}


def fixed_losses(monkeypatch: pytest.MonkeyPatch, val: dict[int, float]) -> None:
    """Let evaluations find a validation loss that rises while the training loss falls."""
    monkeypatch.setattr(
        trainer, "evaluate_splits", lambda run, _: Losses(5 - run.state.iteration / 10, val[run.state.iteration])
    )


def test_a_run_without_improvement_stops_and_keeps_its_best(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_losses(monkeypatch, RISING)
    settings = tiny(max_iters=28, patience=3, batch_size=32)
    summary = train(settings)
    assert summary is not None
    assert (summary.iterations, summary.best_iter) == (20, 8)
    assert (checkpoints_folder(Path(settings.out_dir)) / "best").resolve().name == "iter-000008"
    said = " ".join(capsys.readouterr().err.split())
    assert "stopping early: 3 evaluations in a row were not better than iter 8" in said
    assert said.count("overfitting:") == 1
    record = read_metrics(Path(settings.out_dir) / "metrics.jsonl")
    assert [row["text"][:11] for row in record if row["kind"] == "warning"] == ["overfitting"]
    assert (
        "since iter 8 the val loss has risen from 2.0000 to 2.2000, while the train loss has fallen from 4.2000 to "
        "3.4000" in said
    )

    summary = train(settings.model_copy(update={"init_from": "resume"}))
    assert summary is not None
    assert summary.iterations == 20
    summary = train(settings.model_copy(update={"init_from": "resume", "patience": 5}))
    assert summary is not None
    assert summary.iterations == 28


def test_a_stopped_run_is_no_more_patient_than_one_that_was_not(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_losses(monkeypatch, RISING)
    settings = tiny(max_iters=28, patience=3)
    train_until(settings, 14, monkeypatch)
    summary = train(settings.model_copy(update={"init_from": "resume"}))
    assert summary is not None
    assert summary.iterations == 20


def test_without_patience_a_run_goes_on(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_losses(monkeypatch, RISING)
    summary = train(tiny(max_iters=28))
    assert summary is not None
    assert summary.iterations == 28


def test_finetuning_is_patient_only_so_long_and_training_without_end(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=4))
    finetuned = tiny(init_from=str(tmp_path / "out"), out_dir=str(tmp_path / "tuned"))
    assert set_up(finetuned).settings.patience == 5
    assert set_up(finetuned.model_copy(update={"patience": 0})).settings.patience == 0
    assert set_up(tiny(out_dir=str(tmp_path / "fresh"))).settings.patience == 0
    train(finetuned.model_copy(update={"max_iters": 4}))
    assert set_up(finetuned.model_copy(update={"init_from": "resume"})).settings.patience == 5


def test_patience_takes_the_whole_validation_split(tiny: MakeSettings) -> None:
    settings = tiny(patience=2, eval_iters=1)
    train(settings)
    run = set_up(settings.model_copy(update={"init_from": "resume"}))
    model = load(Path(settings.out_dir) / "checkpoints" / "last")
    whole = score_split(model.gpt, model.tokenizer, run.mixture.datasets[0].val, batch_size=4).loss
    last = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"][-1]
    assert last["val_loss"] == pytest.approx(whole, abs=1e-5)
    assert evaluated_blocks(settings, "train", 99) == 4


def test_overfitting_is_said_only_where_the_training_loss_falls() -> None:
    state = TrainingState(best_val_loss=2.0, best_iteration=8, best_train_loss=1.8, evaluations_since_best=2)
    steady = [4.0, 3.0, 2.0, 2.1, 2.2]
    assert overfitting(Losses(1.7, 2.1), state, steady) is not None
    assert overfitting(Losses(1.9, 2.1), state, steady) is None
    assert overfitting(Losses(1.7, 2.0), state, steady) is None
    state.evaluations_since_best = 1
    assert overfitting(Losses(1.7, 2.1), state, steady) is None


def test_a_rise_within_the_noise_of_evaluations_is_no_overfitting() -> None:
    noise = [0.02, -0.03, 0.01, 0.03, -0.02, 0.0, 0.03, -0.01]
    assert 0.01 < noise_of([2 - 0.1 * index + each for index, each in enumerate(noise)]) < 0.06
    assert noise_of([2.0, 1.9]) == 0
    assert noise_of([2.0, 1.9, 1.8, 1.7]) == pytest.approx(0)
    state = TrainingState(best_val_loss=1.97, best_iteration=8, best_train_loss=1.8, evaluations_since_best=4)
    before = [2 + each for each in noise]
    assert overfitting(Losses(1.7, 2.02), state, before) is None
    assert overfitting(Losses(1.7, 2.3), state, before) is not None


def test_before_one_pass_over_the_text_nothing_is_overfitting(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_losses(monkeypatch, RISING)
    settings = tiny(max_iters=28)
    passes = settings.tokens_per_iteration / len(set_up(settings).mixture.datasets[0].train)
    assert 16 * passes < 1 < 24 * 4 * passes
    train(settings)
    assert "overfitting:" not in capsys.readouterr().err
    train(settings.model_copy(update={"batch_size": 16, "overwrite": True}))
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("overfitting:") == 1
    record = read_metrics(Path(settings.out_dir) / "metrics.jsonl")
    assert [row["text"][:11] for row in record if row["kind"] == "warning"] == ["overfitting"]
    assert "evaluation at iter 16: train loss 3.4000" in said.split("overfitting:")[0]


def test_held_out_text_of_another_kind_is_named_and_no_overfitting(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(0)

    def lines(letters: str, count: int) -> list[str]:
        return [" ".join("".join(draw.choices(letters, k=5)) for _ in range(8)) for _ in range(count)]

    text = tmp_path / "kinds.txt"
    text.write_text("\n".join(lines("abcdefgh", 450) + lines("abcdnopqrstu", 50)))
    prepare([str(text)], data_dir=tmp_path / "data")
    fixed_losses(monkeypatch, {0: 2.0} | {at: 3 + at / 10 for at in range(4, 29, 4)})
    train(tiny(dataset="kinds", max_iters=28, batch_size=64))
    said = " ".join(capsys.readouterr().err.split())
    assert "the held-out text is of another kind than the training text: 5" in said
    assert "% of its tokens never occur in that" in said
    assert "--val=PATH" in said
    assert "overfitting:" not in said
    assert "a held-out text of the same kind is needed" in said


def test_an_evaluation_gives_bits_per_byte(tiny: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(eval_iters=None, max_iters=4)
    train(settings)
    model = load(Path(settings.out_dir))
    run = set_up(settings.model_copy(update={"init_from": "resume"}))
    expected = score_split(model.gpt, model.tokenizer, run.mixture.datasets[0].val, batch_size=4).bits_per_byte
    last = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"][-1]
    assert last["val_bits_per_byte"] == pytest.approx(expected, abs=1e-4)
    assert f"{expected:.3f} bits per byte" in " ".join(capsys.readouterr().err.split()).split("evaluation at iter 4")[1]


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(load(checkpoint).gpt.state_dict())


def finetuning_of(tiny: MakeSettings, tmp_path: Path, **changes: object) -> TrainSettings:
    """Return settings that finetune a small trained model so roughly that it can only become worse."""
    train(tiny(max_iters=12))
    places = {"init_from": str(tmp_path / "out"), "out_dir": str(tmp_path / "tuned")}
    rough = {"learning_rate": 3.0, "min_lr": 3.0, "warmup_iters": 0, "max_iters": 12, "patience": 0}
    return tiny(**(places | rough | changes))


def test_finetuning_that_makes_nothing_better_keeps_the_start_as_best_and_says_so(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = finetuning_of(tiny, tmp_path)
    capsys.readouterr()
    summary = train(settings)
    assert summary is not None
    assert (summary.best_iter, summary.improved) == (0, False)
    assert summary.best_val_loss == summary.start_val_loss
    said = " ".join(capsys.readouterr().err.split())
    assert "the best checkpoint is iter 0, the start" in said
    assert "finetuning has made nothing better" in said
    assert json.loads((tmp_path / "tuned" / "summary.json").read_text())["improved"] is False
    start, best = weights_of(tmp_path / "out"), weights_of(tmp_path / "tuned")
    assert_equal_tensors(start, best)


def test_patience_counts_from_the_start_of_a_finetuned_model(tiny: MakeSettings, tmp_path: Path) -> None:
    summary = train(finetuning_of(tiny, tmp_path, patience=2))
    assert summary is not None
    assert summary.iterations == 8


def test_finetuning_that_goes_on_from_its_start_ends_as_if_it_had_not_stopped(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = finetuning_of(tiny, tmp_path, learning_rate=1e-3, min_lr=1e-4)
    train(settings)
    whole = tmp_path / "tuned"
    again = settings.model_copy(update={"out_dir": str(tmp_path / "again")})
    interruption = Interruption()

    def interrupted(*arguments: Any) -> bool:
        interruption.requested = True
        return take_account(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "take_account", interrupted)
        assert train(again, interruption=interruption) is None
    assert "interrupted and saved at iter 0; go on with" in " ".join(capsys.readouterr().err.split())
    train(again.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(whole, tmp_path / "again")


def test_a_finetuned_model_that_became_better_is_the_best(tiny: MakeSettings, tmp_path: Path) -> None:
    summary = train(finetuning_of(tiny, tmp_path, learning_rate=1e-3, min_lr=1e-4))
    assert summary is not None
    assert summary.improved
    assert summary.best_iter > 0
    assert summary.start_val_loss is not None
    assert summary.best_val_loss < summary.start_val_loss


def test_fresh_weights_that_only_become_worse_are_a_failed_run(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed_losses(monkeypatch, {0: 4.0, 4: 9.0, 8: 5.0, 12: 6.0})
    summary = train(tiny(max_iters=12))
    assert summary is not None
    assert (summary.best_iter, summary.start_val_loss, summary.improved) == (8, 4.0, False)
    said = " ".join(capsys.readouterr().err.split())
    assert "this run has failed: its val loss was 4.0000 before the first step and never lower after it" in said
    summary = train(tiny(max_iters=12, patience=2, overwrite=True))
    assert summary is not None
    assert summary.iterations == 8


def test_a_text_of_one_character_trains_and_is_no_failure(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.txt").write_text("a" * 3000)
    prepare([str(tmp_path / "one.txt")], data_dir=tmp_path / "data", tokenizer="char")
    summary = train(tiny(dataset="one", max_iters=4))
    assert summary is not None
    assert summary.val_loss_full == 0
    assert summary.improved
    assert "this run has failed" not in " ".join(capsys.readouterr().err.split())
