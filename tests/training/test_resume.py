"""A run that is stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from equality import assert_equal_runs
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config import TrainSettings, resolve
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, ConfigError, DataError
from quillgpt.training import train, trainer, validation
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings, allow_float16

RUNS: list[dict[str, Any]] = [
    {"arch": "gpt2", "optimizer": "adamw", "dropout": 0.1},
    {"arch": "qwen3", "optimizer": "muon", "dropout": 0.1},
    {"arch": "gpt2", "optimizer": "muon", "dtype": "bfloat16", "bias": True},
    {"arch": "qwen3", "optimizer": "adamw", "dtype": "bfloat16", "lr_schedule": "wsd", "n_kv_head": 1},
    {"arch": "qwen3", "optimizer": "muon", "ema_decay": 0.9, "tied": False, "zero_init": True, "muon_beta2": 0.9},
    {"arch": "gpt2", "optimizer": "adamw", "ema_decay": 0.9, "bias": True, "dropout": 0.1},
    {"arch": "gpt2", "optimizer": "adamw", "dtype": "float16", "dropout": 0.1},
    {"arch": "qwen3", "optimizer": "muon", "deterministic": True, "patience": 2},
]
COMPILED: list[dict[str, Any]] = [
    {"arch": "qwen3", "optimizer": "muon", "dtype": "bfloat16", "compile": True},
    {"arch": "gpt2", "optimizer": "adamw", "dropout": 0.1, "compile": True},
]


def train_until(settings: TrainSettings, iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and send the process an interrupt in the middle of an iteration."""
    iterate = trainer.Trainer.do_iteration

    def interrupting(self: trainer.Trainer) -> None:
        if self.run.state.iteration == iteration - 1:
            os.kill(os.getpid(), signal.SIGINT)
        iterate(self)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "do_iteration", interrupting)
        assert train(settings) is None


@pytest.mark.parametrize("changes", RUNS, ids=lambda changes: "-".join(map(str, changes.values())))
@pytest.mark.parametrize("stop", [7, 8], ids=["between", "at an evaluation"])
def test_resumed_equals_uninterrupted(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], stop: int
) -> None:
    if changes.get("dtype") == "float16":
        allow_float16(monkeypatch)
    whole = tiny(out_dir=str(tmp_path / "whole"), **changes)
    train(whole)
    parts = tiny(out_dir=str(tmp_path / "parts"), **changes)
    train_until(parts, stop, monkeypatch)
    assert (checkpoints_folder(tmp_path / "parts") / "last").resolve().name == f"iter-{stop:06d}"
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("changes", COMPILED, ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_compiled_run_resumed_equals_uninterrupted(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    test_resumed_equals_uninterrupted(tiny, tmp_path, monkeypatch, changes, 7)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_the_fast_preset_resumed_equals_uninterrupted(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    places = {name: getattr(tiny(), name) for name in ("data_dir", "dataset")}
    # Its own model, batches, optimizers and schedule; fewer iterations, and blocks that fit the text of the tests.
    short = {"max_iters": 8, "lr_decay_iters": 8, "warmup_iters": 2, "eval_interval": 3, "eval_iters": 1}
    # The number format that this machine would choose: without instructions for bfloat16, that would take minutes.
    machine = {"device": "cpu", "dtype": "auto", "threads": 1, "attn_path": "explicit", "compile": compiled}

    def fast(name: str) -> TrainSettings:
        flags = {**places, **short, **machine, "block_size": 192, "out_dir": str(tmp_path / name)}
        return resolve("shakespeare_char_fast", flags, environ={}, dotenv=None)

    train(fast("whole"))
    train_until(fast("parts"), 5, monkeypatch)
    train(fast("parts").model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


LORA: list[dict[str, Any]] = [
    {"arch": "gpt2", "lora_rank": 4, "lora_dropout": 0.1, "dropout": 0.1},
    {"arch": "qwen3", "lora_rank": 2, "lora_targets": "attention", "dtype": "bfloat16"},
]


@pytest.mark.parametrize("changes", LORA, ids=lambda changes: changes["arch"])
def test_adapters_resumed_equal_uninterrupted(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    train(tiny(out_dir=str(tmp_path / "base"), arch=changes["arch"]))
    more = changes | {"init_from": str(tmp_path / "base"), "patience": 0}
    train(tiny(out_dir=str(tmp_path / "whole"), **more))
    parts = tiny(out_dir=str(tmp_path / "parts"), **more)
    train_until(parts, 7, monkeypatch)
    train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    trained = load_file(checkpoints_folder(tmp_path / "parts") / "last/training/weights.safetensors")
    assert trained
    assert all(".lora_" in name for name in trained)


def test_adapters_want_their_own_base_and_settings(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out_dir = tmp_path / "base", tmp_path / "adapted"
    train(tiny(out_dir=str(base)))
    settings = tiny(out_dir=str(out_dir), init_from=str(base), lora_rank=4)
    train_until(settings, 7, monkeypatch)
    with pytest.raises(ConfigError, match=r"lora_rank = 2, but the run in .* has lora_rank = 4; resume with its own"):
        train(settings.model_copy(update={"init_from": "resume", "lora_rank": 2}))
    train(tiny(out_dir=str(base), overwrite=True, seed=2))
    with pytest.raises(CheckpointError, match=r"the adapters of .* belong to .*, which is gone or has changed"):
        train(settings.model_copy(update={"init_from": "resume"}))


def test_resuming_keeps_the_runs_own_choices(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(tiny(attn_path="sdpa", micro_batch_size=2), 5, monkeypatch)
    run = set_up(tiny(attn_path="auto", init_from="resume", compile="auto", dtype="auto", threads=None))
    assert (run.settings.attn_path, run.settings.micro_batch_size) == ("sdpa", 2)
    assert (run.settings.dtype, run.settings.threads, run.settings.compile) == ("float32", 1, False)


def test_a_finished_run_goes_on_when_it_is_given_more_iterations_and_says_what_changed(
    tiny: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny())
    capsys.readouterr()
    summary = train(tiny(init_from="resume", max_iters=16, lr_decay_iters=16, batch_size=2, wandb_project="w"))
    assert summary is not None
    assert summary.iterations == 16
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "changed since iter 12: max_iters 12 -> 16, batch_size 4 -> 2, lr_decay_iters 12 -> 16, wandb_project owt -> w"
        in said
    )
    assert "the learning rate goes on at 0.00269 and ends at 0.00111, as lr_decay_iters = 16 has it" in said
    assert "with another batch_size the data goes on in another order" in said


def test_a_run_resumed_as_it_was_says_of_no_change(tiny: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny())
    train(tiny(init_from="resume", attn_path="auto", compile="auto", dtype="auto", threads=None))
    assert "changed since" not in capsys.readouterr().err


def test_resuming_nothing_is_refused(tiny: MakeSettings) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume"):
        train(tiny(init_from="resume"))


def test_another_shape_is_refused_with_both_values(tiny: MakeSettings) -> None:
    train(tiny(max_iters=2))
    with pytest.raises(ConfigError, match=r"n_layer = 3, but the run in .* has n_layer = 2"):
        train(tiny(init_from="resume", n_layer=3))


def test_a_model_with_a_head_of_its_own_goes_on_where_the_settings_do_not_name_it(
    tiny: MakeSettings, tmp_path: Path
) -> None:
    settings = tiny(max_iters=2, tied=False)
    train(settings)
    config = tmp_path / "out/config.toml"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("tied")))  # as earlier versions wrote it
    unnamed = TrainSettings(
        **{name: getattr(settings, name) for name in settings.model_fields_set - {"tied"}} | {"init_from": "resume"}
    )
    assert set_up(unnamed).settings.tied is False
    with pytest.raises(ConfigError, match=r"tied = True, but the run in .* has tied = False"):
        set_up(unnamed.model_copy(update={"tied": True}))


def test_a_run_goes_on_without_the_text_that_its_tokens_came_from(tiny: MakeSettings, tmp_path: Path) -> None:
    text = tmp_path / "tiny.txt"
    train(tiny(max_iters=2, data=str(text)))
    text.unlink()
    summary = train(tiny(max_iters=4, data=str(text), init_from="resume"))
    assert summary is not None
    assert summary.iterations == 4


def test_other_tokens_are_refused(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    text = tmp_path / "tiny.txt"
    text.write_text(text.read_text() + "the quick brown fox\n")
    prepare([str(text)], data_dir=tmp_path / "data", tokenizer="char")
    with pytest.raises(DataError, match="is not what"):
        train(tiny(init_from="resume"))


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_as_if_nothing_had_been(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, damaged = (tiny(out_dir=str(tmp_path / name), dropout=0.1) for name in ("whole", "damaged"))
    train(whole)
    train(damaged)
    weights = checkpoints_folder(tmp_path / "damaged") / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    train(damaged.model_copy(update={"init_from": "resume"}))
    said = capsys.readouterr().err
    assert "iter-000012/model.safetensors is damaged" in said
    assert "going back to" in said
    assert "iteration 8 of 12" in said
    assert_equal_runs(tmp_path / "whole", tmp_path / "damaged")


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(tiny: MakeSettings) -> None:
    train(tiny())
    for weights in checkpoints_folder(Path(tiny().out_dir)).glob("iter-*/model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged: it has .* are damaged too"):
        train(tiny(init_from="resume"))


def test_an_interrupt_before_the_first_step_saves_nothing(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = validation.mean_loss

    def interrupting(*arguments: Any, **options: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(validation, "mean_loss", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(tiny())
    assert not checkpoints_folder(Path(tiny().out_dir)).exists()


def test_a_best_checkpoint_that_is_lost_is_not_called_the_best(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = {0: 4.0, 4: 2.0, 8: 3.0, 12: 3.5, 16: 3.2}
    monkeypatch.setattr(trainer, "evaluate_splits", lambda run, _: validation.Losses(3, losses[run.state.iteration]))
    train(tiny(keep_last=1))
    best = checkpoints_folder(Path(tiny().out_dir)) / "iter-000004"
    (best / "model.safetensors").unlink()
    summary = train(tiny(init_from="resume", max_iters=16, keep_last=1))
    assert summary is not None
    assert (summary.best_iter, summary.best_val_loss) == (16, 3.2)
    assert "iter-000004, the best checkpoint so far, is damaged or gone" in " ".join(capsys.readouterr().err.split())
    assert (checkpoints_folder(Path(tiny().out_dir)) / "best").resolve().name == "iter-000016"


def test_a_checkpoint_without_the_weights_that_are_trained_is_refused(tiny: MakeSettings) -> None:
    settings = tiny(ema_decay=0.9)
    train(settings)
    folder = checkpoints_folder(Path(settings.out_dir)) / "last"
    (folder / "training" / "weights.safetensors").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["training/weights.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="is of another model than its weights"):
        train(settings.model_copy(update={"init_from": "resume", "max_iters": 16}))


def test_adapters_fit_the_model(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(out_dir=str(tmp_path / "base"), max_iters=2))
    with pytest.raises(ConfigError, match="lora_rank = 33, but the model is only 32 wide"):
        train(tiny(init_from=str(tmp_path / "base"), lora_rank=33))
    with pytest.raises(ValueError, match="lora_alpha = 8 belongs to adapters; give lora_rank too"):
        tiny(init_from=str(tmp_path / "base"), lora_alpha=8.0)
