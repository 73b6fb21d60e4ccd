"""A run is in the folder of its config.toml and checkpoints, whatever config.toml says."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from quillgpt.config import resolve, to_toml
from quillgpt.config.runs import how_to_go_on, places_of, run_of
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import ConfigError

SETTINGS = TrainSettings(out_dir="runs/first", n_layer=3, dataset="tiny", data_dir="sets", learning_rate=1e-2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make the files of a run in runs/first, and change to the folder in which it began."""
    monkeypatch.chdir(tmp_path)
    for iteration in (4, 8):
        folder = Path("runs/first/checkpoints", f"iter-{iteration:06d}", "training")
        folder.mkdir(parents=True)
        state = {"iteration": iteration, "settings": SETTINGS.model_dump(mode="json") | {"of_another_version": 1}}
        (folder / "state.json").write_text(json.dumps(state))
    Path("runs/first/config.toml").write_text(to_toml(SETTINGS))
    return tmp_path / "runs" / "first"


def settings_of(source, **flags):
    return resolve(source, {"init_from": "resume", **flags}, environ={}, dotenv=None)


def test_a_run_that_lies_where_it_was_is_as_it_says(run, capsys):
    assert settings_of("runs/first/config.toml").out_dir == "runs/first"
    assert settings_of(None, out_dir="runs/first") == settings_of("runs/first/config.toml")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move])
def test_a_run_that_was_copied_or_moved_is_where_it_is_now(how, run, tmp_path, capsys):
    how(run, tmp_path / "other")
    assert settings_of("other/config.toml").out_dir == "other"
    assert settings_of("other/config.toml").n_layer == 3
    assert "the run is other, the folder of its config.toml, although that says out_dir = runs/first" in " ".join(
        capsys.readouterr().err.split()
    )
    assert settings_of(None, out_dir="other").out_dir == "other"
    assert settings_of(str(tmp_path / "other" / "config.toml")).out_dir == str(tmp_path / "other")


@pytest.mark.parametrize(("there", "source"), [("", "config.toml"), ("", "./config.toml"), ("below", "../config.toml")])
def test_a_run_is_recognised_from_inside_its_folder(there, source, run, monkeypatch):
    (run / "below").mkdir()
    monkeypatch.chdir(run / there)
    assert settings_of(source).out_dir == str(run)


def test_a_flag_overrides_the_folder_of_a_run(run):
    assert settings_of("runs/first/config.toml", out_dir="new", init_from="scratch").out_dir == "new"


def test_finetuning_from_settings_that_lie_in_a_run_starts_from_that_run(run, tmp_path, capsys):
    shutil.move(run, tmp_path / "moved")
    settings = settings_of("moved/config.toml", init_from="finetune")
    assert settings.out_dir == "moved"
    assert settings.learning_rate == pytest.approx(1e-3)


def test_a_run_without_its_settings_has_those_of_its_newest_checkpoint(run, capsys):
    (run / "config.toml").unlink()
    for settings in (settings_of(None, out_dir="runs/first"), settings_of("runs/first/config.toml")):
        assert settings.n_layer == 3
        assert settings.out_dir == "runs/first"
        assert settings.learning_rate == 1e-2
    said = " ".join(capsys.readouterr().err.split())
    assert "runs/first has no config.toml; its settings are those in" in said
    assert "iter-000008" in said


@pytest.mark.parametrize("content", ["", "[]", '{"settings": 3}'])
def test_a_state_that_cannot_be_read_is_passed_over_and_named_where_there_is_no_other(content, run, capsys):
    (run / "config.toml").unlink()
    (run / "checkpoints/iter-000008/training/state.json").write_text(content)
    assert settings_of(None, out_dir="runs/first").n_layer == 3
    assert "iter-000004" in capsys.readouterr().err
    (run / "checkpoints/iter-000004/training/state.json").write_text(content)
    with pytest.raises(ConfigError, match=r"iter-000008/training/state\.json is damaged.*as flags"):
        settings_of(None, out_dir="runs/first")


def test_a_wrong_value_among_the_settings_of_a_checkpoint_is_named(run):
    (run / "config.toml").unlink()
    shutil.rmtree(run / "checkpoints/iter-000004")
    (run / "checkpoints/iter-000008/training/state.json").write_text('{"settings": {"n_layer": "x"}}')
    with pytest.raises(ConfigError, match=r"n_layer = 'x' in .*state\.json must be a whole number"):
        settings_of(None, out_dir="runs/first")


def test_settings_that_lie_beside_other_things_say_where_the_run_is(run, tmp_path):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints" / "epoch-3").mkdir(parents=True)  # another program's
    (run / "checkpoints" / "iter-x").write_text("")
    assert run_of(run / "config.toml") is None
    shutil.copy(run / "config.toml", "elsewhere.toml")
    assert settings_of("elsewhere.toml").out_dir == "runs/first"


def test_a_relative_path_may_be_meant_from_any_folder_around_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = places_of("sets", tmp_path / "runs" / "first")
    assert places[:3] == [Path("sets"), tmp_path / "runs" / "sets", tmp_path / "sets"]
    assert places_of("/gone/sets", Path("first"))[:3] == [Path("/gone/sets"), Path("sets"), tmp_path / "sets"]


def test_the_command_that_goes_on_is_one_for_a_shell(run, tmp_path):
    assert how_to_go_on(Path("out")) == "quill train out/config.toml --init_from=resume"
    shutil.move(run, tmp_path / "it's mine")
    _, _, source, flag = shlex.split(how_to_go_on("it's mine"))
    assert flag == "--init_from=resume"
    assert settings_of(source).out_dir == "it's mine"
