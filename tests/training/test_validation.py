"""When a run stops by itself, and what it says of overfitting."""

from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.api import load
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.evaluation import score_split
from quillgpt.plots.record import read_metrics
from quillgpt.training import train, trainer
from quillgpt.training.setup import set_up
from quillgpt.training.validation import Losses, evaluated_blocks, overfitting

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
    settings = tiny(max_iters=28, patience=3)
    summary = train(settings)
    assert summary is not None
    assert (summary.iterations, summary.best_iter) == (20, 8)
    assert (checkpoints_folder(Path(settings.out_dir)) / "best").resolve().name == "iter-000008"
    said = " ".join(capsys.readouterr().err.split())
    assert "stopping early: 3 evaluations in a row were not better than iter 8" in said
    assert said.count("overfitting:") == 1
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
    whole = score_split(model.gpt, model.tokenizer, run.dataset.val, batch_size=4).loss
    last = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"][-1]
    assert last["val_loss"] == pytest.approx(whole, abs=1e-5)
    assert evaluated_blocks(settings, "train", 99) == 4


def test_overfitting_is_said_only_where_the_training_loss_falls() -> None:
    state = TrainingState(best_val_loss=2.0, best_iteration=8, best_train_loss=1.8, evaluations_since_best=2)
    assert overfitting(Losses(1.7, 2.1), state) is not None
    assert overfitting(Losses(1.9, 2.1), state) is None
    assert overfitting(Losses(1.7, 2.0), state) is None
    state.evaluations_since_best = 1
    assert overfitting(Losses(1.7, 2.1), state) is None


def test_an_evaluation_gives_bits_per_byte(tiny: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny(eval_iters=None, max_iters=4)
    train(settings)
    model = load(Path(settings.out_dir))
    run = set_up(settings.model_copy(update={"init_from": "resume"}))
    expected = score_split(model.gpt, model.tokenizer, run.dataset.val, batch_size=4).bits_per_byte
    last = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "eval"][-1]
    assert last["val_bits_per_byte"] == pytest.approx(expected, abs=1e-4)
    assert f"{expected:.3f} bits per byte" in " ".join(capsys.readouterr().err.split()).split("evaluation at iter 4")[1]
