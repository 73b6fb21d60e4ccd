"""From a text and minutes to settings, by steps that are really measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quillgpt.config import TrainSettings, resolve
from quillgpt.training import train
from quillgpt.training.planning import budget, scaling
from quillgpt.training.planning.dry_run import predict_run
from quillgpt.training.start.setup import set_up


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
    monkeypatch.setattr(budget, "measured_rate", lambda *_: 2e11)
    fast = set_up(own(minutes="2", overwrite="true")).settings
    assert fast.n_embd > slow.n_embd
    assert (fast.minutes, fast.max_iters) == (2.0, fast.lr_decay_iters)


def test_iterations_that_are_set_stay_and_need_no_minutes(own: Any) -> None:
    settings = set_up(own(max_iters="7", n_embd="32", n_layer="1")).settings
    assert (settings.minutes, settings.max_iters, settings.lr_decay_iters) == (None, 7, 7)


def test_without_either_there_are_the_usual_minutes(own: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings = set_up(own(n_embd="32", n_layer="1")).settings
    assert settings.minutes == budget.USUAL_MINUTES
    said = " ".join(capsys.readouterr().err.split())
    assert "chosen for 3 min;" in said
    assert "the run ends before its time" in said  # 1,500 words are soon read often enough


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
