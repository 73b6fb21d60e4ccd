"""When a run is saved, what is kept, and what a disk without room does to it."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from quillgpt.checkpoint.names import checkpoints_folder, numbered
from quillgpt.errors import UserError
from quillgpt.training import train, trainer
from quillgpt.training.folder import checkpointer
from quillgpt.training.start.setup import set_up
from quillgpt.training.validation import Losses

from .conftest import MakeSettings


def names(out_dir: str) -> list[str]:
    return [path.name for path in numbered(Path(out_dir))]


def test_a_run_is_saved_between_evaluations_too(tiny: MakeSettings) -> None:
    settings = tiny(eval_interval=6, checkpoint_interval=4, keep_last=9, always_save_checkpoint=True)
    train(settings)
    assert names(settings.out_dir) == ["iter-000004", "iter-000006", "iter-000008", "iter-000012"]


def test_without_an_interval_only_evaluations_save(tiny: MakeSettings) -> None:
    settings = tiny(checkpoint_interval=None, keep_last=9, always_save_checkpoint=True)
    train(settings)
    assert names(settings.out_dir) == ["iter-000004", "iter-000008", "iter-000012"]


@pytest.mark.parametrize(("interval", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200)])
def test_the_clock_says_when_a_save_is_due(tiny: MakeSettings, interval: str, seconds: int) -> None:
    now = 1000.0
    run = set_up(tiny(checkpoint_interval=interval))
    writer = checkpointer.Checkpointer(run, clock=lambda: now)
    run.state.iteration = 5
    now += seconds - 1
    assert not writer.is_due(writer.time_is_up())
    now += 1
    assert writer.is_due(writer.time_is_up())
    writer.save(best=False)
    assert not writer.is_due(writer.time_is_up())


def test_slow_saves_wait_until_they_are_two_percent_of_the_time(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    run = set_up(tiny(checkpoint_interval="90s"))
    writer = checkpointer.Checkpointer(run, clock=lambda: now)
    save_checkpoint = checkpointer.save_checkpoint

    def slow(*arguments: Any, **options: Any) -> Path:
        nonlocal now
        now += 10
        return save_checkpoint(*arguments, **options)

    monkeypatch.setattr(checkpointer, "save_checkpoint", slow)
    run.state.iteration = 1
    writer.save(best=False)
    run.state.iteration = 2
    now += 10 / 0.02 - 1
    assert not writer.is_due(writer.time_is_up())
    now += 1
    assert writer.is_due(writer.time_is_up())


def test_what_was_best_before_stays_with_the_checkpoint_to_fall_back_on(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    writer = checkpointer.Checkpointer(run)
    for iteration, best in ((1, 1), (2, 1), (3, 1), (4, 4)):
        run.state.iteration, run.state.best_iteration = iteration, best
        writer.save(best=best == iteration)
    assert names(run.settings.out_dir) == ["iter-000001", "iter-000003", "iter-000004"]
    run.state.iteration = 5
    writer.save(best=False)
    assert names(run.settings.out_dir) == ["iter-000004", "iter-000005"]


def full_disk_at(monkeypatch: pytest.MonkeyPatch, *iterations: int) -> None:
    """Let the disk be full when certain iterations are saved."""
    save_checkpoint = checkpointer.save_checkpoint

    def refuse(*arguments: Any, **options: Any) -> Path:
        if options["state"].iteration in iterations:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_checkpoint(*arguments, **options)

    monkeypatch.setattr(checkpointer, "save_checkpoint", refuse)


def test_a_run_outlives_a_disk_that_is_full_for_a_while(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk_at(monkeypatch, 8)
    settings = tiny(always_save_checkpoint=True)
    assert train(settings) is not None
    assert names(settings.out_dir) == ["iter-000004", "iter-000012"]
    said = capsys.readouterr().err
    assert "iter 8 cannot be written: No space left on device; iter-000004 is kept; training goes on" in said


def test_a_best_checkpoint_that_could_not_be_written_is_not_remembered_as_best(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {0: 4.0, 4: 3.0, 8: 1.0, 12: 2.0}
    monkeypatch.setattr(trainer.Trainer, "evaluate", lambda self: Losses(4.0, losses[self.run.state.iteration]))
    full_disk_at(monkeypatch, 8)
    summary = train(tiny())
    assert summary is not None
    assert (summary.best_iter, summary.best_val_loss) == (12, 2.0)


def test_a_run_whose_end_could_not_be_saved_says_so_and_goes_on_from_what_is_kept(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_disk_at(patch, 12)
        with pytest.raises(UserError, match=r"iter 12 could not be saved: .*iter-000008 is kept; make room and go on"):
            train(tiny())
    summary = train(tiny(init_from="resume"))
    assert summary is not None
    assert summary.iterations == 12


def test_a_save_is_not_begun_where_there_is_no_room(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("quillgpt.checkpoint.save.SMALL_FILES_BYTES", 10**18)
    with pytest.raises(UserError, match=r"it takes [\d,.]+ EB, the disk has .* left; there is no checkpoint"):
        train(tiny(max_iters=4))
    assert list(checkpoints_folder(Path(tiny().out_dir)).iterdir()) == []


def test_a_weight_that_is_not_finite_is_not_saved(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    writer = checkpointer.Checkpointer(run)
    run.state.iteration = 1
    writer.save(best=True)
    run.state.iteration = 2
    with torch.no_grad():
        next(run.model.parameters())[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite at iteration 2"):
        writer.save(best=True)
    assert names(run.settings.out_dir) == ["iter-000001"]


def test_rows_wait_for_a_disk_that_is_full(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = trainer.MetricsLog(tmp_path / "gone" / "metrics.jsonl")
    (tmp_path / "gone").write_text("a file in the way of the folder")
    log.write("train", iter=1)
    log.write("train", iter=2)
    (tmp_path / "gone").unlink()
    log.write("train", iter=3)
    rows = [json.loads(line) for line in (tmp_path / "gone" / "metrics.jsonl").read_text().splitlines()]
    assert [row["iter"] for row in rows] == [1, 2, 3]
    assert capsys.readouterr().err.count("takes no rows now") == 1
