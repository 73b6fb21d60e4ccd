"""What is in out_dir before a run: what is Quill's may go, once there is something in its place; all else stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quillgpt.checkpoint import load_model
from quillgpt.checkpoint.names import LAST, REPLACED, checkpoints_folder, numbered
from quillgpt.cli import main
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import CheckpointError, ConfigError, UserError
from quillgpt.ownership import RECORD
from quillgpt.training import train, trainer
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.folder.out_dir import replaced_by

from .conftest import MakeSettings


def content(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, and where links lead."""
    return {
        path.relative_to(folder).as_posix(): bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def short(tiny: MakeSettings, **changes: object) -> TrainSettings:
    return tiny(max_iters=4, eval_iters=1, **changes)


@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/epoch-3/weights.bin",
        "checkpoints/model.ckpt",
        "checkpoints/iter-000004/model.safetensors",
        "checkpoints",
        "config.toml",
        "summary.json",
        "report.html",
        "provenance.json",
        "metrics.jsonl",
        "tensorboard/notes.txt",
        ".lock",
        ".running",
        ".quill.json",
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_quill_did_not_write_makes_the_folder_taken(tiny: MakeSettings, name: str, overwrite: bool) -> None:
    pytest.importorskip("tensorboard")
    settings = short(tiny, tensorboard=True, overwrite=overwrite)
    path = Path(settings.out_dir) / name
    path.parent.mkdir(parents=True)
    path.write_text("mine\n", encoding="utf-8")
    before = content(path.parents[len(Path(name).parts) - 1])
    with pytest.raises(UserError, match=Path(name).parts[0]):
        train(settings)
    assert content(Path(settings.out_dir)) == before


def test_other_files_are_in_nobodys_way(tiny: MakeSettings) -> None:
    settings = short(tiny)
    mine = Path(settings.out_dir) / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine\n", encoding="utf-8")
    train(settings)
    train(settings.model_copy(update={"overwrite": True}))
    assert mine.read_text(encoding="utf-8") == "mine\n"


def test_starting_over_leaves_what_was_added_to_the_folder_of_checkpoints(tiny: MakeSettings) -> None:
    settings = short(tiny)
    train(settings)
    added = [checkpoints_folder(Path(settings.out_dir)) / name for name in ("epoch-3", ".mine.old", "iter-000004-good")]
    for folder in added:
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"mine")
    train(settings.model_copy(update={"overwrite": True}))
    assert [(folder / "weights.bin").read_bytes() for folder in added] == [b"mine"] * 3


def test_a_file_put_into_a_checkpoint_is_not_removed_with_it(tiny: MakeSettings) -> None:
    settings = short(tiny)
    train(settings)
    mine = checkpoints_folder(Path(settings.out_dir)) / "iter-000004" / "model.gguf"
    mine.write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"checkpoints/iter-000004/model\.gguf"):
        train(settings.model_copy(update={"overwrite": True}))
    assert mine.read_bytes() == b"mine"


def test_a_run_that_lost_its_manifests_is_not_started_over_unasked(tiny: MakeSettings) -> None:
    settings = short(tiny)
    train(settings)
    for folder in numbered(Path(settings.out_dir)):
        (folder / "manifest.json").unlink()
    before = content(Path(settings.out_dir))
    with pytest.raises(CheckpointError, match="already holds a checkpoint"):
        train(settings)
    assert content(Path(settings.out_dir)) == before
    train(settings.model_copy(update={"overwrite": True}))


def test_a_run_from_before_there_were_records_can_be_resumed_and_started_over(tiny: MakeSettings) -> None:
    settings = short(tiny)
    train(settings)
    (Path(settings.out_dir) / RECORD).unlink()
    train(settings.model_copy(update={"init_from": "resume", "max_iters": 6}))
    (Path(settings.out_dir) / RECORD).unlink()
    train(settings.model_copy(update={"overwrite": True}))
    assert (Path(settings.out_dir) / RECORD).is_file()


def test_a_link_to_a_large_disk_stays_one(tiny: MakeSettings, tmp_path: Path) -> None:
    settings = short(tiny)
    disk, out_dir = tmp_path / "disk", Path(settings.out_dir)
    disk.mkdir()
    out_dir.mkdir()
    checkpoints_folder(out_dir).symlink_to(disk)
    train(settings)
    train(settings.model_copy(update={"overwrite": True}))
    assert checkpoints_folder(out_dir).readlink() == disk
    assert (disk / LAST / "model.safetensors").is_file()


def test_an_empty_out_dir_is_refused(tiny: MakeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("", "  "):
        with pytest.raises(ConfigError, match="out_dir is empty"):
            train(short(tiny, out_dir=value))
    assert main(["train", "demo", "--out_dir=", "--dry_run"]) == 2
    assert "out_dir is empty" in capsys.readouterr().err


def test_a_link_that_leads_nowhere_is_named(tiny: MakeSettings, tmp_path: Path) -> None:
    settings = short(tiny)
    Path(settings.out_dir).symlink_to(tmp_path / "disk" / "runs")
    with pytest.raises(ConfigError, match="is a link to"):
        train(settings)


@pytest.mark.parametrize("start", ["", "checkpoints/best"])
def test_what_a_run_starts_from_is_never_removed_by_it(tiny: MakeSettings, start: str) -> None:
    settings = short(tiny)
    train(settings)
    before = content(Path(settings.out_dir))
    model = str(Path(settings.out_dir) / start)
    with pytest.raises(ConfigError, match="which the run starts from"):
        train(settings.model_copy(update={"init_from": model, "overwrite": True}))
    assert content(Path(settings.out_dir)) == before


def test_an_earlier_run_goes_only_when_the_new_one_has_a_checkpoint(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    settings = short(tiny, tensorboard=True)
    train(settings)
    out_dir = Path(settings.out_dir)
    before = content(out_dir)
    again = settings.model_copy(update={"overwrite": True, "learning_rate": 2e-2, "tensorboard": False})

    def fail(*_: object, **__: object) -> None:
        raise UserError("no")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "do_iteration", fail)
        with pytest.raises(UserError, match=r"^no$"):
            train(again)
    assert content(out_dir) == before
    train(again)
    assert not (out_dir / REPLACED).exists()
    assert not (checkpoints_folder(out_dir) / REPLACED).exists()
    assert not list((out_dir / "tensorboard").glob("*"))
    assert "learning_rate = 0.02" in (out_dir / "config.toml").read_text(encoding="utf-8")


def test_what_a_killed_run_had_set_aside_is_put_back_by_the_next(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = short(tiny)
    train(settings)
    out_dir = Path(settings.out_dir)

    def killed(*_: object, **__: object) -> None:
        shutil.copytree(out_dir, tmp_path / "killed", symlinks=True)
        raise UserError("no")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "do_iteration", killed)
        with pytest.raises(UserError, match=r"^no$"):
            train(settings.model_copy(update={"overwrite": True, "learning_rate": 2e-2}))
    left = tmp_path / "killed"
    assert not numbered(left)
    assert load_model(left).about["iteration"] == 4
    assert "learning_rate = 0.01" in (left / "config.toml").read_text(encoding="utf-8")
    train(settings.model_copy(update={"out_dir": str(left), "init_from": "resume", "max_iters": 6}))
    summary = json.loads((left / "summary.json").read_text(encoding="utf-8"))
    assert summary["iterations"] == 6
    assert not (left / REPLACED).exists()
    assert "learning_rate = 0.01" in (left / "config.toml").read_text(encoding="utf-8")


def test_a_run_that_goes_back_to_its_beginning_does_not_set_itself_aside(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = short(tiny)
    train(settings)
    iterate, failed = trainer.Trainer.do_iteration, []

    def fail_once(self: trainer.Trainer) -> None:
        if not failed and self.run.state.iteration == 1:
            failed.append(True)
            raise NonFiniteError(1, float("nan"), float("nan"))
        iterate(self)

    monkeypatch.setattr(trainer.Trainer, "do_iteration", fail_once)
    train(settings.model_copy(update={"overwrite": True}))
    assert failed
    assert not (Path(settings.out_dir) / REPLACED).exists()


def test_a_plan_says_what_would_go(tiny: MakeSettings) -> None:
    settings = short(tiny)
    assert replaced_by(settings) == []
    train(settings)
    gone = replaced_by(settings.model_copy(update={"overwrite": True}))
    files = ["config.toml", "metrics.jsonl", "summary.json", "provenance.json", "report.html"]
    assert gone == [*files, "checkpoints/iter-000004"]
