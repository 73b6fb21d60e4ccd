"""Runs that other models teach: what they learn, resuming, and teachers that cannot teach."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from equality import assert_equal_runs
from quillgpt.api import load
from quillgpt.config import TrainSettings, resolve
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, ConfigError, TokenizerError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.planning.dry_run import predict_run

from .conftest import MakeSettings
from .test_resume import train_until


@pytest.fixture
def taught(tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeSettings:
    """Make settings of a run that two models teach, in whose folder the tests work."""
    monkeypatch.chdir(tmp_path)
    train(tiny(out_dir="one", seed=1))
    train(tiny(out_dir="two", seed=2, n_embd=48))

    def make(**changes: Any) -> TrainSettings:
        return tiny(**{"teachers": "one,two", **changes})

    return make


def losses(run: Path) -> list[float]:
    return [row["val_loss"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "eval"]


def log_probabilities(run: str) -> Tensor:
    """Return what a run's model thinks of each next letter, (B, T, V)."""
    model = load(run, device="cpu", dtype="float32")
    words = "the quick brown fox jumps over a lazy dog while seven wizards watch "
    ids = torch.from_numpy(model.tokenizer.encode(words).astype("int64"))[:64].view(4, 16)
    with torch.no_grad():
        return model.gpt.logits(model.gpt(ids)).log_softmax(-1)


def distance(truth: Tensor, other: Tensor) -> float:
    """Return the mean Kullback-Leibler divergence, in nats."""
    return float((truth.exp() * (truth - other)).sum(-1).mean())


def test_a_run_says_who_teaches_it_and_its_losses_are_those_of_the_text(
    taught: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(taught(out_dir="student"))
    assert "one, two: 0.5 of the targets is their mean probabilities" in " ".join(capsys.readouterr().err.split())
    train(taught(out_dir="alone", teachers=None))
    student, alone = losses(tmp_path / "student"), losses(tmp_path / "alone")
    assert student[0] == alone[0]
    assert student[-1] < student[0] - 0.3
    assert student[1:] != alone[1:]


def test_a_model_that_only_its_teacher_teaches_comes_to_say_the_same(taught: MakeSettings) -> None:
    settings = taught(out_dir="student", teachers="one", teacher_share=1.0, max_iters=60, lr_decay_iters=60)
    train(settings)
    train(taught(out_dir="alone", teachers=None, max_iters=60, lr_decay_iters=60))
    teacher, student, alone = map(log_probabilities, ("one", "student", "alone"))
    assert distance(teacher, student) < distance(teacher, alone) / 4


@pytest.mark.parametrize("path", ["explicit", "fused"])
def test_resumed_equals_uninterrupted(
    taught: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    train(taught(out_dir=str(tmp_path / "whole"), dropout=0.1, attn_path=path))
    parts = taught(out_dir=str(tmp_path / "parts"), dropout=0.1, attn_path=path)
    train_until(parts, 7, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_micro_batches_change_nothing(taught: MakeSettings, tmp_path: Path) -> None:
    train(taught(out_dir="whole", micro_batch_size=8))
    train(taught(out_dir="parts", micro_batch_size=3))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


def test_a_run_goes_on_where_it_was_moved_with_its_teachers(taught: MakeSettings, tmp_path: Path) -> None:
    train(taught(out_dir="student", max_iters=4))
    (tmp_path / "moved").mkdir()
    for name in ("one", "two", "student"):
        shutil.move(name, f"moved/{name}")
    flags = {"init_from": "resume", "max_iters": "6"}
    assert train(resolve("moved/student/config.toml", flags, environ={}, dotenv=None)) is not None


def test_a_teacher_that_has_changed_is_refused_by_name_and_one_can_go_on_without(taught: MakeSettings) -> None:
    train(taught(out_dir="student", max_iters=4))
    train(taught(out_dir="two", teachers=None, overwrite=True, seed=9))
    resumed = taught(out_dir="student", max_iters=6, init_from="resume")
    with pytest.raises(CheckpointError, match=r"two, which teaches the run in student, is gone or has changed; .*none"):
        train(resumed)
    shutil.rmtree("two")
    with pytest.raises(CheckpointError, match="two, which teaches the run in student, is gone"):
        train(resumed)
    flags = {"init_from": "resume", "max_iters": "6", "teachers": "none"}
    assert train(resolve("student/config.toml", flags, environ={}, dotenv=None)) is not None


def test_models_that_cannot_teach_are_refused_before_anything_is_written(
    taught: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"one cannot teach: its context is 16 tokens, .* use --block_size=16"):
        train(taught(out_dir="student", block_size=32))
    with pytest.raises(CheckpointError, match="nobody"):
        train(taught(out_dir="student", teachers="one,nobody"))
    with pytest.raises(ConfigError, match="names no model"):
        train(taught(out_dir="student", teachers=","))
    with pytest.raises(ConfigError, match="teachers = one,two,one/checkpoints/best names a model twice"):
        train(taught(out_dir="student", teachers="one,two,one/checkpoints/best"))
    with pytest.raises(ConfigError, match="one cannot teach a run that takes its place"):
        train(taught(out_dir="one", overwrite=True))
    text = tmp_path / "other.txt"
    text.write_text("other letters: ABCDEF " * 200)
    prepare([str(text)], data_dir=tmp_path / "data", dataset="other", tokenizer="char")
    with pytest.raises(TokenizerError, match=r"one cannot teach: its tokenizer is char .* --tokenizer="):
        train(taught(out_dir="student", dataset="other"))
    assert not Path("student").exists()
    assert load("one") is not None
    with pytest.raises(ValueError, match="float16 does not go with teachers"):
        taught(dtype="float16")
    capsys.readouterr()


def test_a_dry_run_tries_iterations_with_the_teachers_and_counts_their_memory(taught: MakeSettings) -> None:
    alone, with_both = (predict_run(taught(out_dir="student", teachers=each)) for each in (None, "one,two"))
    assert with_both.memory.activations > alone.memory.activations
    assert "trying" in with_both.timing.basis
    with pytest.raises(ConfigError, match="one cannot teach"):
        predict_run(taught(out_dir="student", block_size=32))


def test_the_rules_choose_for_a_run_that_is_taught(taught: MakeSettings, tmp_path: Path) -> None:
    settings = TrainSettings(
        defaults="scaled",
        arch="qwen3",
        teachers="one",
        max_iters=5,
        dataset="tiny",
        data_dir=str(tmp_path / "data"),
        out_dir="student",
        block_size=16,
        device="cpu",
        dtype="float32",
        threads=1,
        compile=False,
    )
    assert train(settings) is not None
