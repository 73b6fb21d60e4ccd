"""What a run does, writes, refuses and leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from quillgpt.api import load
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config import TrainSettings, resolve
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, ConfigError, DataError, TokenizerError, UserError
from quillgpt.plots.record import read_metrics
from quillgpt.training import train
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings


def test_training_learns_and_sums_up(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=60, lr_decay_iters=60, eval_interval=20)
    summary = train(settings)
    out = Path(settings.out_dir)
    assert summary is not None
    absent = dict.fromkeys(("val_losses_full", "val_loss_part", "val_part", "copied_share", "expected_copied_share"))
    assert json.loads((out / "summary.json").read_text()) | absent == summary.__dict__
    rows = read_metrics(out / "metrics.jsonl")
    first, last = (row for row in rows if row["kind"] == "eval" and row["iter"] in (0, 60))
    assert last["val_loss"] < first["val_loss"] - 1.0
    assert summary.tokens == 60 * 8 * 16
    assert summary.best_val_loss == min(row["val_loss"] for row in rows if row["kind"] == "eval")


def test_rows_of_the_record(tiny: MakeSettings) -> None:
    settings = tiny(log_interval=3)
    train(settings)
    rows = read_metrics(Path(settings.out_dir) / "metrics.jsonl")
    logged = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    assert [row["iter"] for row in logged] == [3, 6, 9, 12]
    assert [row["iter"] for row in evaluated] == [0, 4, 8, 12]
    assert {"loss", "lr", "grad_norm", "tokens", "seconds", "tokens_per_second", "mfu"} <= set(logged[0])
    assert all(row["grad_norm"] > 0 for row in logged)
    assert {"train_loss", "val_loss", "tokens", "seconds"} <= set(evaluated[0])
    assert [row["tokens"] for row in logged] == [iteration * 128 for iteration in (3, 6, 9, 12)]
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_the_final_loss_is_what_evaluation_of_the_checkpoint_gives(tiny: MakeSettings) -> None:
    settings = tiny()
    summary = train(settings)
    score = load(settings.out_dir, device="cpu", dtype="float32").evaluate("tiny", data_dir=settings.data_dir)
    assert summary is not None
    assert score.loss == pytest.approx(summary.val_loss_full, abs=1e-6)
    assert score.estimate.standard_error == pytest.approx(summary.val_standard_error, rel=1e-4)


def test_checkpoints_kept(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=20, lr_decay_iters=20, always_save_checkpoint=True, keep_last=2)
    train(settings)
    folder = checkpoints_folder(Path(settings.out_dir))
    best = (folder / "best").resolve().name
    assert (folder / "last").resolve().name == "iter-000020"
    assert {path.name for path in folder.glob("iter-*")} == {"iter-000016", "iter-000020", best}


def test_only_best_last_and_the_one_before_are_kept_otherwise(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=20, eval_interval=2)
    train(settings)
    folder = checkpoints_folder(Path(settings.out_dir))
    best, last = ((folder / name).resolve().name for name in ("best", "last"))
    assert {path.name for path in folder.glob("iter-*")} == {best, last, "iter-000018"}


def test_an_occupied_folder_is_refused_with_both_ways_out(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=4)
    train(settings)
    before = (Path(settings.out_dir) / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"--init_from=resume.*--overwrite"):
        train(settings)
    assert (Path(settings.out_dir) / "metrics.jsonl").read_text() == before
    assert train(tiny(max_iters=4, overwrite=True)) is not None


def test_a_folder_without_a_checkpoint_starts_over(tiny: MakeSettings) -> None:
    settings = tiny(max_iters=4)
    out = Path(settings.out_dir)
    assert train(settings) is not None
    shutil.rmtree(out / "checkpoints")  # as if it had failed before its first one
    (out / "metrics.jsonl").write_text('{"kind": "train", "iter": 1}\n')
    assert train(settings) is not None
    assert all("seconds" in row for row in read_metrics(out / "metrics.jsonl"))


def test_eval_only_writes_nothing_and_accepts_an_occupied_folder(tiny: MakeSettings) -> None:
    train(tiny(max_iters=4))
    out = Path(tiny().out_dir)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert train(tiny(eval_only=True)) is None
    assert train(tiny(eval_only=True, init_from="resume")) is None
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_config_toml_gives_the_same_settings_with_every_choice_made(tiny: MakeSettings) -> None:
    settings = tiny(attn_path="auto", dtype="auto", threads=None, compile="auto", max_iters=2)
    train(settings)
    written = resolve(str(Path(settings.out_dir) / "config.toml"), {}, environ={}, dotenv=None)
    assert written.attn_path in ("sdpa", "explicit", "fused")
    assert written.dtype in ("float32", "bfloat16")
    assert written.threads is not None
    assert written.compile is False
    assert written.micro_batch_size == 8
    assert written.n_embd == settings.n_embd


def test_no_checkpoint_before_the_first_step(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    from quillgpt.training import trainer

    def stop(self: object) -> None:
        raise UserError("stop")

    monkeypatch.setattr(trainer.Trainer, "do_iteration", stop)
    settings = tiny()
    with pytest.raises(UserError, match="stop"):
        train(settings)
    assert not checkpoints_folder(Path(settings.out_dir)).exists()


def test_divergence_is_said_and_not_saved(tiny: MakeSettings) -> None:
    settings = tiny(learning_rate=1e30, grad_clip=0.0, warmup_iters=0)
    with pytest.raises(UserError, match="diverged"):
        train(settings)
    assert not checkpoints_folder(Path(settings.out_dir)).exists()


def test_a_model_to_start_from_gives_its_shape_and_keeps_its_own_files(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(max_iters=8))
    parent = Path(tiny().out_dir)
    before = {path: path.stat().st_mtime_ns for path in parent.rglob("*")}
    finetuned = tiny(out_dir=str(tmp_path / "fine"), init_from=str(parent), n_layer=5, n_embd=64, block_size=8)
    run = set_up(finetuned)
    assert "n_layer = 2, not 5, n_embd = 32, not 64" in " ".join(capsys.readouterr().err.split())
    assert (run.settings.n_layer, run.settings.n_embd, run.settings.block_size) == (2, 32, 8)
    assert run.model.config.block_size == 8
    parent_weight = load(parent, device="cpu", dtype="float32").gpt.token_embedding.weight
    assert torch.equal(run.model.token_embedding.weight, parent_weight)
    assert train(finetuned) is not None
    assert {path: path.stat().st_mtime_ns for path in parent.rglob("*")} == before


def test_a_longer_block_than_the_models_is_refused(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    with pytest.raises(ConfigError, match=r"block_size = 32 is longer than the 16"):
        train(tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir, block_size=32))


def test_a_block_that_nobody_asked_for_is_the_models(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    asked = tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir).model_dump(exclude={"block_size"})
    assert TrainSettings(**asked).block_size == 1024
    assert set_up(TrainSettings(**asked)).settings.block_size == 16


def test_data_prepared_with_another_tokenizer_is_refused_with_the_command_that_mends_it(
    tiny: MakeSettings, tmp_path: Path
) -> None:
    train(tiny(max_iters=2))
    other = tmp_path / "other.txt"
    other.write_text("Entirely different letters: QWERTY 12345.\n" * 40, encoding="utf-8")
    prepare([str(other)], data_dir=tmp_path / "data", tokenizer="char")
    settings = tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir, dataset="other")
    with pytest.raises(TokenizerError, match=r"quill prepare .* --tokenizer"):
        train(settings)


def test_data_is_prepared_with_the_models_tokenizer(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    more = tmp_path / "more.txt"
    more.write_text("a lazy fox watches the brown dog \n" * 40, encoding="utf-8")
    run = set_up(
        tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir, data=str(more), dataset="more", max_iters=2)
    )
    assert run.mixture.datasets[0].tokenizer.fingerprint == load(tiny().out_dir).tokenizer.fingerprint


def test_another_tokenizers_data_set_is_not_replaced(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    more = tmp_path / "more.txt"
    more.write_text("a lazy fox watches the brown dog \n" * 40, encoding="utf-8")
    prepare([str(more)], data_dir=tmp_path / "data", tokenizer="byte")
    settings = tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir, data=str(more), dataset="more")
    with pytest.raises(TokenizerError, match="--dataset=more_2"):
        train(settings)


def test_what_is_recorded_does_not_start_the_run_over(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=4, overwrite=True))
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        train(resolve(f"{tiny().out_dir}/config.toml", {}, environ={}, dotenv=None))


def test_a_resumed_run_remembers_what_it_began_from(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=2))
    fine = tiny(out_dir=str(tmp_path / "fine"), init_from=tiny().out_dir, max_iters=2)
    train(fine)
    train(fine.model_copy(update={"init_from": "resume", "max_iters": 4}))
    assert load(fine.out_dir).about["init_from"] == tiny().out_dir


def test_a_text_shorter_than_the_block_names_a_block_that_fits(tiny: MakeSettings, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short for that\n" * 10, encoding="utf-8")
    with pytest.raises(DataError, match=r"--block_size=18"):
        train(tiny(data=str(short), dataset="short", block_size=64))
    short.write_text("too short for any\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"use a longer text$"):
        train(tiny(data=str(short), dataset="short", block_size=64))


def test_too_few_rows_for_the_tokenizer_are_refused(tiny: MakeSettings) -> None:
    with pytest.raises(ConfigError, match="vocab_size = 3 is smaller"):
        train(tiny(vocab_size=3))


def test_what_would_be_done_to_a_text_and_is_not_applied_is_said(
    tiny: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(tiny())
    assert "is not applied" not in capsys.readouterr().err
    set_up(tiny(val="other.txt", val_fraction=0.3, drop_openings=3, deduplicate=True))
    said = capsys.readouterr().err
    assert "val = other.txt is not applied" in said
    assert "val_fraction = 0.3 is not applied" in said
    assert "quill prepare tiny --drop_openings=3" in said
    assert "deduplicate = True is not applied" in said
    assert "drop_endings" not in said


def test_an_out_dir_under_a_file_is_named_before_anything_is_done(tiny: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tiny\.txt is a file"):
        train(tiny(out_dir=str(tmp_path / "tiny.txt" / "run")))


def test_resuming_and_starting_over_contradict_each_other(tiny: MakeSettings) -> None:
    train(tiny(max_iters=2))
    with pytest.raises(ConfigError, match="give one of them"):
        train(tiny(init_from="resume", overwrite=True))
