"""`quill bench train` and `sample` on tiny models, from the command line to the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quillgpt.bench.measured_model import measured_config
from quillgpt.cli import main
from quillgpt.config import resolve

pytestmark = pytest.mark.usefixtures("quick_workers")

SMALL = ["--n_layer=1", "--n_head=1", "--n_embd=16", "--block_size=8", "--batch_size=2", "--device=cpu", "--threads=1"]
TINY = ["shakespeare_char_cpu", *SMALL, "--dtype=float32", "--rounds=2"]


def test_training_is_measured_against_all_peers_in_numbers_with_units(
    checkout: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    trace = tmp_path / "trace.json"
    peers = ["--peer", f"nanogpt={checkout}", "--peer=transformers"]
    assert main(["bench", "train", *TINY, "--iterations=1", *peers, "--json", f"--profile={trace}"]) == 0
    captured = capfd.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["candidate"] for row in rows] == ["quill", "nanogpt", "transformers"]
    for row in rows:
        assert len(row["tokens_per_second_rounds"]) == 2
        assert row["ms_per_iteration"] * row["tokens_per_second"] == pytest.approx(1000 * 2 * 8)
        assert row["peak_flops_per_second"] > 0
        assert row["mfu"] > 0
        assert row["peak_memory_bytes"] is None or row["peak_memory_bytes"] > 50e6
    assert rows[0]["quill_times_as_fast"] == 1
    assert rows[0]["parameters"] == 65 * 16 + 8 * 16 + 12 * 16 * 16 + 3 * 16
    assert rows[2]["parameters"] == rows[0]["parameters"] + 12 * 16  # the biases that GPT2LMHeadModel always has
    assert "traceEvents" in json.loads(trace.read_text(encoding="utf-8"))
    assert "aten::" in captured.err
    assert str(trace) in captured.err.replace("\n", "")


def test_sampling_is_measured_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    flags = ["--max_new_tokens=6", "--num_samples=2", "--peer=transformers", "--profile"]
    assert main(["bench", "sample", *TINY, *flags]) == 0
    words = capsys.readouterr().out
    about, ours, theirs, operations = words.split("\n\n")
    assert "shakespeare_char_cpu" in about
    assert ours.startswith("quill")
    assert theirs.startswith("transformers")
    for part in (ours, theirs):
        assert "tokens/s (rounds: " in part
        assert " ms" in part
        assert "MB, the whole process" in part or "not measured" in part
    assert "times as fast" in theirs
    assert len(operations.strip().splitlines()) == 11
    assert (tmp_path / "trace-sample.json").is_file()


def test_nanogpt_samples_one_after_the_other(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "sample", *TINY, "--max_new_tokens=12", "--num_samples=2", f"--peer=nanogpt={checkout}", "--json"]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["candidate"] for row in rows] == ["quill", "nanogpt"]
    assert all(row["ms_per_token"] * row["tokens_per_second"] == pytest.approx(1000) for row in rows)


@pytest.mark.parametrize(
    ("preset", "flags", "vocabulary", "rows"),
    [
        ("shakespeare_char", {}, None, 65),
        ("shakespeare", {}, None, 50304),  # its recipe's tokenizer is GPT-2's, and the vocabulary is padded
        ("train_gpt2", {}, None, 50304),
        ("shakespeare_char", {"tokenizer": "bpe:1000"}, None, 1000),
        ("shakespeare_char", {"tokenizer": "byte"}, None, 257),
        ("train_gpt2", {}, 300, 300),
    ],
)
def test_the_vocabulary_is_that_of_the_presets_tokenizer(
    preset: str, flags: dict[str, object], vocabulary: int | None, rows: int
) -> None:
    settings = resolve(preset, flags, environ={}, dotenv=None)
    assert measured_config(settings, vocabulary).vocab_size == rows


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["train", "demo", "--preset=shakespeare"], 2, "name two presets"),
        (["train", "--preset=shakespear"], 2, "did you mean shakespeare"),
        (["train", "--profile", "demo"], 2, "expected a file that ends in .json"),
        (["train", "--rounds=0"], 2, "rounds = 0"),
        (["sample", "--num_samples=-1"], 2, "num_samples = -1"),
        (["train", "--peer=llama"], 2, "expected nanogpt=PATH"),
        (["sample", "--peer=transformers", "--max_new_tokens=300"], 1, "--max_new_tokens=256 or less"),
    ],
)
def test_mistakes_are_errors_of_one_line(
    words: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == status
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split())
    assert captured.out == ""
