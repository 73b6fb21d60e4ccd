"""Files of settings of other programs, and Quill's names for theirs."""

from pathlib import Path
from typing import Any

import pytest

from quillgpt.cli import main
from quillgpt.config import resolve
from quillgpt.config.foreign import OURS, meant_setting
from quillgpt.config.schema import SampleSettings, TrainFields
from quillgpt.errors import ConfigError

TABLES = """\
include = "base.toml"
tokenizer_name = "char"
seed = 1

[model]
n_ctx = 256
n_layer = 6

[optimization]
peak_lr = 1e-3
betas = [0.9, 0.95]
num_workers = 8
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(source: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(source, {}, environ={}, dotenv=None)
    return str(caught.value)


def test_every_translation_is_the_name_of_a_setting() -> None:
    for theirs, ours in OURS.items():
        assert theirs not in TrainFields.model_fields
        assert set(ours.split(" and ")) <= {*TrainFields.model_fields, *SampleSettings.model_fields, "extends"}


def test_tables_are_told_what_is_called_otherwise(tmp_path: Path) -> None:
    Path("tables.toml").write_text(TABLES)
    said = refusal("tables.toml")
    assert said.startswith("tables.toml has tables ([model], [optimization])")
    for renamed in (
        "include is extends",
        "tokenizer_name is tokenizer",
        "n_ctx is block_size",
        "peak_lr is learning_rate",
        "betas is beta1 and beta2",
    ):
        assert renamed in said
    assert said.endswith("unknown: num_workers")


def test_a_file_of_environment_variables_is_told_what_is_called_otherwise() -> None:
    Path("small.env").write_text("# comment\nexport N_LAYER=6\nVAL_SIZE=0.1\nNAME = small\nDDP=False\n")
    said = refusal("small.env")
    assert "small.env holds environment variables" in said
    assert said.endswith("val_size is val_fraction, name is out_dir here; unknown: ddp")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("run.json", '{"n_layer": 2}', "write `name = value` lines into a .toml file"),
        ("run.yaml", "n_layer: 2", "write `name = value` lines into a .toml file"),
        ("ckpt.pt", "x", "quill train --init_from=ckpt.pt"),
        ("model.safetensors", "x", "quill train --init_from=model.safetensors"),
        ("small.env", "N_LAYER=2", "environment variables"),
        ("tale.txt", "once", "quill train --data tale.txt"),
    ],
)
def test_a_file_instead_of_a_preset_is_called_what_it_is(
    name: str, content: str, words: str, capsys: pytest.CaptureFixture[Any]
) -> None:
    Path(name).write_text(content)
    assert main(["train", name]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_folders_instead_of_a_preset() -> None:
    Path("texts").mkdir()
    Path("data/hitchikers").mkdir(parents=True)
    assert refusal("texts").endswith("quill train --data texts")
    assert "--dataset=hitchikers" in refusal("hitchikers")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lr", "learning_rate"), ("n_ctx", "block_size"), ("use-wandb", "wandb_log"), ("batchsize", "batch_size")],
)
def test_a_name_of_others_is_recognized_everywhere(
    typed: str, meant: str, capsys: pytest.CaptureFixture[Any], tmp_path: Path
) -> None:
    assert main(["train", f"--{typed}=1"]) == 2
    assert f"did you mean --{meant}?" in capsys.readouterr().err
    Path("run.toml").write_text(f"{typed} = 1\n")
    assert refusal("run.toml").endswith(f"did you mean {meant}?")
    assert meant_setting("lr", ["top_k"]) is None  # a command without it
