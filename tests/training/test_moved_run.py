"""A run that was moved, copied or renamed goes on where it is now, with the text that it learnt from."""

import re
import shutil
from pathlib import Path

import pytest

from quillgpt.api import load
from quillgpt.checkpoint import TrainingState
from quillgpt.cli import main
from quillgpt.config import TrainSettings, resolve
from quillgpt.errors import CheckpointError, DataError
from quillgpt.training import train
from quillgpt.training.start.adapter_base import name_of_base


@pytest.fixture
def place(tiny, tmp_path, monkeypatch):
    """Train a run `home/run` of four iterations on `home/sets/tiny`, all paths relative to `home`."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.move(tmp_path / "data", home / "sets")
    shutil.move(tmp_path / "tiny.txt", home / "tiny.txt")
    monkeypatch.chdir(home)
    train(tiny(out_dir="run", data_dir="sets", data="tiny.txt", max_iters=4))
    return home


def go_on(source, **flags):
    """Resume a run for two more iterations, and return where its last checkpoint then is."""
    settings = resolve(source, {"init_from": "resume", "max_iters": "6", **flags}, environ={}, dotenv=None)
    assert train(settings) is not None
    return Path(settings.out_dir, "checkpoints", "last").resolve().name


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_copy_goes_on_and_its_original_stays_as_it_is(place):
    shutil.copytree("run", "copy", symlinks=True)
    before = listing(place / "run")
    assert go_on("copy/config.toml") == "iter-000006"
    assert (place / "copy/checkpoints/iter-000006").is_dir()
    assert listing(place / "run") == before


def test_a_run_goes_on_from_inside_of_it(place, monkeypatch, capsys):
    monkeypatch.chdir("run")
    assert go_on("config.toml") == "iter-000006"
    assert f"the data set tiny is found by its fingerprint: it is {place / 'sets' / 'tiny'}" in capsys.readouterr().err
    assert (place / "run/checkpoints/iter-000006").is_dir()
    assert sorted(path.name for path in Path().iterdir() if not path.name.startswith(".")) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "provenance.json",
        "report.html",
        "summary.json",
    ]


def test_the_command_that_is_suggested_goes_on_with_a_moved_run(place, tmp_path, monkeypatch, capsys):
    home = shutil.move(place, tmp_path / "archive")
    monkeypatch.chdir(tmp_path)
    settings = resolve("archive/run/config.toml", {}, environ={}, dotenv=None)
    with pytest.raises(Exception, match="already holds a checkpoint") as caught:
        train(settings)
    command = re.search(r"quill (train .*? --init_from=resume)", str(caught.value))[1]
    assert main([*command.split(), "--max_iters=6"]) == 0
    assert (Path(home) / "run/checkpoints/iter-000006").is_dir()


def test_a_data_set_that_was_renamed_is_found_and_its_name_kept(place, capsys):
    shutil.move("sets/tiny", "sets/words")
    assert go_on("run/config.toml") == "iter-000006"
    assert "the data set tiny is found by its fingerprint: it is sets/words" in capsys.readouterr().err
    assert 'dataset = "words"' in Path("run/config.toml").read_text()
    assert go_on("run/config.toml", max_iters="8") == "iter-000008"
    assert "is found by its fingerprint" not in capsys.readouterr().err


def test_a_text_that_was_moved_with_the_run_makes_the_data_set_anew(place, tmp_path, monkeypatch):
    shutil.rmtree("sets")
    monkeypatch.chdir(tmp_path)
    assert go_on("home/run/config.toml") == "iter-000006"


def test_what_was_looked_for_and_where_is_said_if_nothing_is_there(place):
    shutil.rmtree("sets")
    Path("tiny.txt").unlink()
    with pytest.raises(DataError, match="tiny with the fingerprint") as caught:
        go_on("run/config.toml")
    for word in ("sets", str(place / "sets"), "tiny.txt", "cannot be made again"):
        assert word in str(caught.value)


def test_another_text_under_the_name_is_not_taken_for_it(place):
    shutil.rmtree("sets")
    Path("tiny.txt").write_text("other words " * 300)
    with pytest.raises(DataError, match="is not what run was trained on"):
        go_on("run/config.toml")


def test_a_run_without_its_settings_goes_on_as_if_nothing_had_been(place):
    shutil.copytree("run", "whole", symlinks=True)
    Path("run/config.toml").unlink()
    go_on(None, out_dir="run")
    go_on("whole/config.toml")
    one, other = (Path(name, "checkpoints/last/model.safetensors").read_bytes() for name in ("run", "whole"))
    assert one == other


def test_a_model_is_measured_on_its_own_data_set_from_anywhere(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = load("home/run", device="cpu", threads=1)
    found = model.open_dataset("tiny", data_dir="sets")
    assert found.folder == place / "sets" / "tiny"
    with pytest.raises(DataError, match="there is no data set other"):
        model.open_dataset("other", data_dir="sets")


def test_adapters_find_their_base_where_both_were_moved(place, tmp_path, monkeypatch):
    run = resolve("run/config.toml", {}, environ={}, dotenv=None)
    train(run.model_copy(update={"out_dir": "adapted", "init_from": "run", "lora_rank": 2}))
    home = Path(shutil.move(place, tmp_path / "archive"))
    monkeypatch.chdir(home / "adapted")
    assert go_on("config.toml") == "iter-000006"


def test_finetuning_what_is_not_there_looks_nowhere_else(place, monkeypatch):
    for out_dir in ("somebody/x", "runs/x", "nothing"):
        with pytest.raises(CheckpointError, match=f"{out_dir} holds no model to finetune"):
            train(resolve("train_gpt2", {"init_from": "finetune", "out_dir": out_dir}, environ={}, dotenv=None))


def test_the_base_of_adapters_is_called_by_its_name_on_the_hub_or_by_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = TrainingState(base={"folder": "/cache/somewhere", "sha256": "abc"})
    for given, name in [
        ("gpt2", "openai-community/gpt2"),
        ("somebody/small", "somebody/small"),
        ("out/run", "/cache/somewhere"),
        ("./a/b", "/cache/somewhere"),
        ("run", "/cache/somewhere"),
    ]:
        assert name_of_base(TrainSettings(init_from=given), state) == name
