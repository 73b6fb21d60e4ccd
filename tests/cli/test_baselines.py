"""The published models by name, with small weights from a mirror."""

import json
import math

import pytest
import torch
import transformers

from quillgpt.cli import main
from quillgpt.evaluation import published_losses
from quillgpt.text.tokenizers.byte import ByteTokenizer

QUICK = ("--device=cpu", "--threads=1", "--dtype=float32")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A mirror with a small model named gpt2, and a data set named openwebtext."""
    torch.manual_seed(0)
    folder = tmp_path / "mirror" / "hub" / "gpt2"
    small = {"vocab_size": 257, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**small)).save_pretrained(folder)
    ByteTokenizer().save(folder)
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("All that glisters is not gold. " * 200)
    assert main(["prepare", "text.txt", "--dataset=openwebtext", "--tokenizer=byte"]) == 0
    return tmp_path


def test_eval_prints_both_splits_beside_what_is_published(capsys):
    assert main(["eval", "gpt2", "--dataset=openwebtext", "--eval_iters=1", "--batch_size=4", *QUICK]) == 0
    _, heads, train, val = capsys.readouterr().out.splitlines()
    assert heads.split()[-3:] == ["tokens", "context", "published"]
    assert train.startswith("gpt2   openwebtext train, 1 batch ")
    assert train.split()[-5:] == ["128", "1", "to", "32", "3.11"]
    assert val.startswith("gpt2   openwebtext val ")
    assert val.split()[-1] == "3.12"


def test_the_preset_prints_the_same_loss_and_writes_nothing(here, capsys):
    assert main(["train", "eval_gpt2", "--block_size=32", "--eval_iters=1", *QUICK]) == 0
    printed = capsys.readouterr().err
    assert "published: train loss 3.11, val loss 3.12" in printed
    assert not (here / "out-eval-gpt2").exists()
    assert main(["eval", "gpt2", "--dataset=openwebtext", "--split=val", "--json", *QUICK]) == 0
    score = json.loads(capsys.readouterr().out)
    assert f"val loss {score['loss']:.4f}" in printed
    assert f"val {math.exp(score['loss']):.2f}" in printed


def test_only_published_models_are_compared():
    assert published_losses("gpt2-xl", "openwebtext") == (2.56, 2.54)
    assert published_losses("gpt2-xl", "wikitext") is None
    assert published_losses("out", "openwebtext") is None


def test_sampling_by_name(capsys):
    words = ["--num_samples=1", "--max_new_tokens=5", *QUICK]
    assert main(["sample", "gpt2", *words]) == 0
    first = capsys.readouterr().out
    assert main(["sample", "--init_from=gpt2", *words]) == 0
    assert capsys.readouterr().out == first


def test_finetuning_starts_from_it_and_keeps_its_tokenizer(here, capsys):
    words = [
        "--block_size=16",
        "--max_iters=3",
        "--eval_interval=1",
        "--learning_rate=1e-3",
        "--warmup_iters=0",
        *QUICK,
    ]
    assert main(["train", "finetune", "--dataset=openwebtext", *words]) == 0
    told = json.loads((here / "out-finetune" / "checkpoints" / "best" / "config.json").read_text())
    assert (told["n_positions"], told["n_layer"], told["quill"]["tokenizer"]) == (16, 2, "byte")
    assert told["quill"]["init_from"] == "gpt2"
    assert main(["train", "finetune", "--data=text.txt", "--out_dir=other", *words]) == 0
