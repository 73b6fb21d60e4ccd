"""A leading `~` is the home folder, in every place that takes a path."""

from pathlib import Path
from typing import Any

import pytest

from quillgpt.cli import main
from quillgpt.cli.completion import paths
from quillgpt.config import EvalSettings, PrepareSettings, SampleSettings, resolve, resolve_flat
from quillgpt.config.schema import COMMAND_SETTINGS, TrainSettings

SCHEMAS = {
    "out_dir": SampleSettings,
    "init_from": SampleSettings,
    "data_dir": EvalSettings,
    "tokenizer": PrepareSettings,
}
PATHS = ("out_dir", "init_from", "data_dir", "tokenizer", "val")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("name", PATHS)
def test_every_place_that_sets_a_path(home: str, name: str) -> None:
    Path("run.toml").write_text(f'{name} = "~/x"\n')
    Path("run.py").write_text(f"{name} = '~/x'\n")
    Path(".env").write_text(f"QUILL_{name.upper()}=~/x\n")
    for settings in (
        resolve("demo", {name: "~/x"}, environ={}, dotenv=None),
        resolve("demo", {}, environ={f"QUILL_{name.upper()}": "~/x"}, dotenv=None),
        resolve("demo", {}, environ={}),
        resolve("run.toml", {}, environ={}, dotenv=None),
        resolve("run.py", {}, environ={}, dotenv=None),
        TrainSettings(**{name: "~/x"}),
        resolve_flat(SCHEMAS.get(name, PrepareSettings), {name: "~/x"}, environ={}, dotenv=None),
    ):
        assert getattr(settings, name) == f"{home}/x"


def test_no_setting_that_is_a_path_is_forgotten() -> None:
    """Text that is no path is listed, so that a new setting is looked at once."""
    words = {"dataset", "data", "replay_dataset", "teachers", "device", "attn_type", "wandb_project", "wandb_run_name"}
    words |= {
        "start",
        "sample_prompt",
        "stop",
        "checkpoint_interval",
        "rank_timeout",
        "encoding",
        "tasks",
        "language",
        "compute_type",
    }
    words |= {"host", "api_key", "read_as", "me"}
    for schema in COMMAND_SETTINGS.values():
        for name, field in schema.model_fields.items():
            is_text = str in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if is_text and name not in words:
                assert name in PATHS


def test_a_voice_file_may_be_in_the_home_folder(home: str) -> None:
    assert resolve_flat(SampleSettings, {"voice": "~/x.onnx"}, environ={}, dotenv=None).voice == f"{home}/x.onnx"


def test_the_home_of_an_unknown_user_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    monkeypatch.setenv("QUILL_MIRROR", "~nobody-of-this-name/x")
    monkeypatch.setenv("QUILL_HOME", "~/cache")
    assert main(["info", "gpt2-of-mine"]) == 1
    assert list(paths("~nobody-of-this-name/")) == []
    assert "fault" not in capsys.readouterr().err


def test_other_text_stays_as_it_is(home: str) -> None:
    for text in ("~nobody-of-this-name/x", "a~/x", "gpt2", "./~", "~\u00fc"):
        assert resolve("demo", {"out_dir": text}, environ={}, dotenv=None).out_dir == text
    assert resolve_flat(SampleSettings, {"start": "~", "stop": "~/x"}, environ={}, dotenv=None).start == "~"


def test_a_text_in_the_home_folder_gives_the_data_set_its_name(home: str) -> None:
    settings = resolve(None, {"data": "~/My Tale.txt,~/b.txt"}, environ={}, dotenv=None)
    assert (settings.dataset, settings.out_dir) == ("my_tale", "out-my_tale")


@pytest.mark.parametrize(
    "words",
    [
        ["info", "~/x"],
        ["eval", "~/x"],
        ["sample", "~/x"],
        ["sample", "--out_dir=~/x"],
        ["sample", "--init_from=~/x"],
        ["export", "~/x", "there", "--to=hf"],
        ["lab", "ranges", "~/x"],
        ["plot", "~/x"],
        ["train", "~/x"],
        ["train", "~/x.toml"],
        ["prove", "~/x.toml"],
        ["bench", "train", "~/x.toml"],
        ["lab", "compare", "~/x.toml"],
        ["configs", "show", "~/x.py"],
    ],
)
def test_paths_on_the_command_line_expand_the_home_folder(
    home: str, words: list[str], capsys: pytest.CaptureFixture[Any]
) -> None:
    """None of these exists; the message names the path."""
    assert main(words) in (1, 2)
    assert f"quill: {home}/x" in capsys.readouterr().err
