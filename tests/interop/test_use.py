"""Every command that takes a model takes nanoGPT's ckpt.pt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quillgpt
from quillgpt.cli import main
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import prepare
from quillgpt.interop import open_model

from .conftest import LETTERS, checkpoint, write_meta

RUN = [
    "--dataset=letters",
    "--batch_size=2",
    "--gradient_accumulation_steps=1",
    "--max_iters=2",
    "--lr_decay_iters=2",
    "--warmup_iters=0",
    "--eval_interval=2",
    "--eval_iters=1",
    "--device=cpu",
    "--dtype=float32",
    "--compile=False",
    "--threads=1",
]


class MakesFolder:
    """A value whose unpickling makes a folder here."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("made",)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> Path:
    """Stand where nanoGPT left `out/ckpt.pt`, and its data set `data/letters` with the table of characters."""
    monkeypatch.chdir(tmp_path)
    for name in [
        name for name in os.environ if name.startswith("QUILL_") and name not in ("QUILL_HOME", "QUILL_MIRROR")
    ]:
        monkeypatch.delenv(name)
    write(meta=False)
    write_meta(tmp_path / "data" / "letters")
    ids = [LETTERS.index(letter) for letter in "abc def gh!\nbad cab.\n" * 40]
    for split, part in (("train", ids[:700]), ("val", ids[700:])):
        np.array(part, dtype=np.uint16).tofile(tmp_path / "data" / "letters" / f"{split}.bin")
    return tmp_path


@pytest.mark.parametrize("words", [["out"], ["out/ckpt.pt"], ["--out_dir=out"], ["--init_from=out/ckpt.pt"], []])
def test_sampling_from_a_ckpt(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--num_samples=1", "--max_new_tokens=20", "--start=abc", "--device=cpu", "--threads=1"]
    assert main(["sample", *words, *more]) == 0
    text = capsys.readouterr().out.split("\n---------------\n")[0]
    assert len(text) == 23
    assert set(text) <= set(LETTERS)


def test_sample_takes_the_table_from_where_data_dir_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "data").rename(here / "elsewhere")
    more = ["--num_samples=1", "--max_new_tokens=2", "--device=cpu", "--threads=1"]
    assert main(["sample", "out", "--data_dir=elsewhere", *more]) == 0
    assert main(["info", "out", "--data_dir=elsewhere"]) == 0


def test_info_and_eval(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "out"]) == 0
    told = capsys.readouterr().out
    for word in ("out/ckpt.pt", "12", "char (12 tokens", "letters", "250"):
        assert word in told
    assert main(["eval", "out", "--json", "--device=cpu", "--dtype=float32", "--threads=1"]) == 0
    train, score = map(json.loads, capsys.readouterr().out.splitlines())
    assert [train["split"], score["split"]] == ["train", "val"]
    model = quillgpt.load("out", device="cpu", dtype="float32", threads=1)
    assert score["dataset"] == "letters"
    assert score["loss"] == pytest.approx(model.evaluate(open_dataset("letters", Path("data"))).loss, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "out_dir"),
    [
        (["--init_from=out/ckpt.pt", "--out_dir=new"], "new"),
        (["--init_from=finetune", "--out_dir=out"], "out-finetuned"),
    ],
)
def test_a_run_starts_from_its_weights(words: list[str], out_dir: str, here: Path) -> None:
    before = (here / "out" / "ckpt.pt").read_bytes()
    assert main(["train", *words, *RUN, "--block_size=12", "--learning_rate=0", "--min_lr=0"]) == 0
    trained, parent = open_model(Path(out_dir)).model.state_dict(), open_model(Path("out")).model.state_dict()
    for name, tensor in parent.items():
        assert trained[name].equal(tensor), name
    assert (here / "out" / "ckpt.pt").read_bytes() == before
    assert [path.name for path in (here / "out").iterdir()] == ["ckpt.pt"]


def test_a_ckpt_is_named_when_a_new_run_begins_beside_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (here / "out" / "ckpt.pt").read_bytes()
    assert main(["train", "--out_dir=out", *RUN, "--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=8"]) == 0
    assert "out/ckpt.pt is a checkpoint of nanoGPT's and stays; out means the new run" in capsys.readouterr().err
    assert (here / "out" / "ckpt.pt").read_bytes() == before
    assert open_model(Path("out")).config.n_layer == 1


@pytest.mark.parametrize("words", [["--resume"], ["--init_from=resume"]])
def test_the_run_of_a_ckpt_is_not_resumed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out_dir=out", *words, *RUN]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    for word in ("out/ckpt.pt", "optimizer", "--init_from=out/ckpt.pt"):
        assert word in message


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "out"],
        ["info", "out/ckpt.pt"],
        ["eval", "out"],
        ["train", "--init_from=out", "--out_dir=new", *RUN],
        ["train", "--init_from=finetune", "--out_dir=out", "--dry_run", *RUN],
    ],
)
def test_no_command_runs_what_it_may_contain(
    words: list[str], write: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(checkpoint() | {"config": MakesFolder()}, meta=False)
    assert main(words) == 1
    [message] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quill: ")]
    assert "out/ckpt.pt is not plain data: it wants to run" in message
    assert "mkdir" in message
    assert not (here / "made").exists()
    assert not (here / "new").exists()


def test_a_data_set_for_it_is_prepared_by_what_the_message_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "text.txt").write_text("abc def gh!\nbad cab.\n" * 40)
    prepare(["text.txt"], data_dir=Path("data"), tokenizer="byte", dataset="bytes")
    assert main(["eval", "out", "--dataset=bytes"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    command = message.rpartition("quill ")[2]
    assert command == "prepare PATH --dataset bytes_2 --tokenizer data/letters/meta.pkl"
    assert main(command.replace("PATH", "text.txt").split()) == 0
    assert main(["eval", "out", "--dataset=bytes_2", "--device=cpu", "--threads=1"]) == 0
