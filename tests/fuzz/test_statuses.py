"""Whatever a command is given to read: it works, or it ends with a status other than 0 and one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest

from fuzzing import as_json, check_message, damage, fuzz, mutate, randoms
from quillgpt.checkpoint import TrainingState, save_checkpoint
from quillgpt.cli import main
from quillgpt.data.prepare import prepare
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import GPT2, tiny_model

MACHINE = ["--device=cpu", "--dtype=float32"]
SIZES = [
    "--n_layer=1",
    "--n_head=2",
    "--n_embd=8",
    "--block_size=8",
    "--batch_size=1",
    "--gradient_accumulation_steps=1",
]
SAMPLE = ["sample", "model", "--num_samples=1", "--max_new_tokens=2", *MACHINE]
TRAIN = [
    "train",
    "run.toml",
    "--dataset=text",
    "--out_dir=out",
    "--threads=1",
    "--compile=False",
    "--max_iters=1",
    *SIZES,
    *MACHINE,
]
PYTHON = b"# nanoGPT's\nlearning_rate = 1e-3\nmin_lr = learning_rate / 10\neval_iters = 20\ndropout = 0.1\n"
TOML = b"learning_rate = 1e-3\nmin_lr = 1e-4\neval_iters = 20\ndropout = 0.1\ncheckpoint_interval = '10m'\n"
CASES: dict[str, tuple[list[str], str]] = {
    "weights": (SAMPLE, "model/model.safetensors"),
    "config of a model": (["info", "model"], "model/config.json"),
    "manifest of a checkpoint": (["info", "model"], "model/manifest.json"),
    "foreign config": (["info", "foreign"], "foreign/config.json"),
    "foreign tokenizer": (["sample", "foreign", *SAMPLE[2:]], "foreign/tokenizer.json"),
    "prompt": ([*SAMPLE, "--start=FILE:prompt.txt"], "prompt.txt"),
    "manifest of a data set": (["eval", "model", "--dataset=text", *MACHINE], "data/text/dataset.json"),
    "text": (["prepare", "text.txt", "--dataset=again", "--tokenizer=byte"], "text.txt"),
    "TOML": ([*TRAIN, "--eval_only"], "run.toml"),
    "nanoGPT's config": (["train", "run.py", *TRAIN[2:], "--eval_only"], "run.py"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, a model of another program's, a data set, a text, a prompt and two configs."""
    folder = tmp_path_factory.mktemp("statuses")
    model = tiny_model(GPT2, vocab_size=257, n_layer=1, n_embd=16, head_dim=4, mlp_dim=16)
    saved = save_checkpoint(
        folder, model, ByteTokenizer(), about={"bias": True}, optimizer={}, state=TrainingState(iteration=1)
    )
    saved.rename(folder / "model")
    (folder / "foreign").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copy(folder / "model" / name, folder / "foreign" / name)
    (folder / "text.txt").write_text("To be, or not to be, that is the question:\n" * 60)
    prepare([str(folder / "text.txt")], data_dir=folder / "data", tokenizer="byte")
    (folder / "prompt.txt").write_text("To be, or")
    (folder / "run.toml").write_bytes(TOML)
    (folder / "run.py").write_bytes(PYTHON)
    return folder


@pytest.mark.parametrize("case", CASES)
@fuzz(30, random=randoms)
def test_a_command_with_a_damaged_file(
    made: Path, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], random: Random
) -> None:
    monkeypatch.chdir(made)
    words, name = CASES[case]
    file = made / name
    before = file.read_bytes()
    changed = as_json(mutate(json.loads(before), random)) if file.suffix == ".json" and random.random() < 0.7 else None
    file.write_bytes(damage(before, random) if changed is None else changed)
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        file.write_bytes(before)
    out, err = capsys.readouterr()
    assert "fault of Quill's own" not in err, err
    assert "Traceback" not in out + err, err
    lines = [line for line in err.split("\n") if line.startswith("quill: ")]
    assert bool(status) == bool(lines), err
    for line in lines:
        check_message(line)


def test_undamaged_files_are_read(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    for words, _ in CASES.values():
        assert main(words) == 0, words
