"""Samples that a run writes: always the same way, and without a change to what it learns."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quillgpt
from equality import assert_equal_tensors, state_of
from quillgpt.config import TrainSettings
from quillgpt.console import quietly
from quillgpt.data.prepare import prepare
from quillgpt.distributed import World
from quillgpt.errors import ConfigError, DataError, TokenizerError, UserError
from quillgpt.plots.record import METRICS, read_metrics
from quillgpt.proof.compare import tensors_of
from quillgpt.training import memorization, train
from quillgpt.training import samples as written
from quillgpt.training.samples import SAMPLE_TOKENS, check_samples, samples_to_come, shown
from quillgpt.training.start.setup import set_up

from .conftest import TINY, WORDS, MakeSettings
from .test_resume import train_until

RUNS: list[dict[str, Any]] = [
    {"arch": "qwen3", "optimizer": "muon", "ema_decay": 0.9, "dropout": 0.1},
    {"arch": "gpt2", "dtype": "bfloat16", "attn_type": "GKn", "attn_path": "recompute", "dropout": 0.1},
]
WRITING: dict[str, Any] = {"sample_interval": 3, "trace_samples": True}


def rows(out_dir: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_metrics(out_dir / METRICS) if row["kind"] == kind]


def samples(out_dir: Path) -> list[tuple[int, str]]:
    return [(row["iter"], row["text"]) for row in rows(out_dir, "sample")]


@pytest.mark.parametrize("changes", RUNS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_run_that_writes_learns_the_same_and_goes_on_the_same(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(written, "SAMPLE_TOKENS", 20)  # which take a second less
    silent, writing, parts = (tmp_path / name for name in ("silent", "writing", "parts"))
    train(tiny(out_dir=str(silent), **changes))
    train(tiny(out_dir=str(writing), **WRITING, **changes))
    settings = tiny(out_dir=str(parts), **WRITING, **changes)
    train_until(settings, 9, monkeypatch)  # where a sample is due
    assert [iteration for iteration, _ in samples(parts)] == [3, 6, 9]
    train(settings.model_copy(update={"init_from": "resume"}))
    for run in (writing, parts):
        assert_equal_tensors(tensors_of(silent), tensors_of(run))
        assert state_of(run) == state_of(silent)
    assert [iteration for iteration, _ in samples(writing)] == [3, 6, 9, 12]
    assert samples(parts) == samples(writing)
    assert len({text for _, text in samples(writing)}) == 4


def test_randomness_and_mode_are_left_as_they_were(tiny: MakeSettings) -> None:
    run = set_up(tiny(sample_interval=3, dropout=0.5))
    run.model.train()
    before, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    memorization.draw(run, run.model, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], of_numpy)
    assert all(module.training for module in run.model.modules())


def test_the_last_sample_is_what_quill_sample_writes(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompt.txt").write_text("the quick\r\n", encoding="utf-8")
    train(tiny(sample_interval=100, sample_prompt=f"FILE:{tmp_path / 'prompt.txt'}", eval_interval=12))
    [row] = rows(tmp_path / "out", "sample")
    assert (row["iter"], row["prompt"], row["seed"]) == (12, "the quick\n", 1337)
    [sample] = quillgpt.load(tmp_path / "out", device="cpu", dtype="float32").generate(
        "the quick\n", max_new_tokens=SAMPLE_TOKENS, seed=1337
    )
    assert row["text"] == sample.text
    assert f"sample at iter 12:\n{shown(sample.text)}\n" in capsys.readouterr().err


def test_a_quiet_run_shows_no_sample_and_records_it(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with quietly():
        train(tiny(sample_interval=6, max_iters=6, eval_interval=6))
    assert len(samples(tmp_path / "out")) == 1
    assert "sample at" not in capsys.readouterr().err


def test_a_sample_is_shown_in_few_lines() -> None:
    text = "\n\n" + "".join(f"line {number}\n\n" for number in range(9))
    assert shown(text) == "  line 0\n  line 1\n  line 2\n  line 3\n  ..."
    assert shown("x" * 101) == f"  {'x' * 100}..."
    assert shown("one") == "  one"


@pytest.mark.parametrize(("interval", "end", "expected"), [(0, 10, 0), (3, 9, 2), (3, 10, 3), (3, 5, 1), (20, 4, 0)])
def test_samples_to_come_are_counted(interval: int, end: int, expected: int) -> None:
    assert samples_to_come(4, end, TrainSettings(sample_interval=interval)) == expected


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"sample_prompt": "FILE:nowhere.txt"}, UserError, "prompt file nowhere.txt cannot be read"),
        ({"sample_prompt": "ß"}, TokenizerError, "ß"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused_before_training(
    tiny: MakeSettings, tmp_path: Path, changes: dict[str, Any], error: type[UserError], words: str
) -> None:
    with pytest.raises(error, match=words):
        train(tiny(sample_interval=3, **changes))
    assert not (tmp_path / "out" / METRICS).exists()


def test_divided_weights_are_refused() -> None:
    settings = TrainSettings(strategy="fsdp", sample_interval=5)
    with pytest.raises(ConfigError, match=r"sample_interval = 5 needs whole weights.*--strategy=ddp"):
        check_samples(settings, World(size=2))
    check_samples(settings, World())
    check_samples(TrainSettings(strategy="fsdp"), World(size=2))


def test_a_missing_package_is_refused_before_training(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydivsufsort", None)
    with pytest.raises(UserError, match=r"--trace_samples needs the package pydivsufsort.*quillgpt\[trace\]"):
        train(tiny(trace_samples=True))
    assert not (tmp_path / "out" / METRICS).exists()


def test_tokens_without_a_text_are_refused(tiny: MakeSettings, tmp_path: Path) -> None:
    folder = tmp_path / "data/ids"
    folder.mkdir()
    for name in ("train.bin", "val.bin"):
        (np.arange(500) % 9).astype(np.uint16).tofile(folder / name)
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 9}))
    with pytest.raises(DataError, match="the text of the tokens"):
        train(tiny(dataset="ids", trace_samples=True))


def text_of_words(characters: int) -> str:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("aeiourstnlm"), size=draw.integers(2, 8))) for _ in range(300)] + WORDS
    lines = (" ".join(draw.choice(words, size=6)) for _ in range(characters // 20))
    return "\n".join(lines)[:characters] + "\n"


LEARNING: dict[str, Any] = {
    "arch": "qwen3",
    "optimizer": "muon",
    "n_layer": 1,
    "n_embd": 64,
    "block_size": 32,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 3e-3,
    "log_interval": 50,
}


@pytest.mark.parametrize(("characters", "passes", "recites"), [(1_500, 60, True), (30_000, 1, False)])
def test_a_model_is_told_that_it_recites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], characters: int, passes: int, recites: bool
) -> None:
    """One has read a short text sixty times, the other a longer one once."""
    (tmp_path / "text.txt").write_text(text_of_words(characters), encoding="utf-8")
    prepare([str(tmp_path / "text.txt")], data_dir=tmp_path / "data", dataset="text", tokenizer="char")
    length = round(passes * 0.9 * characters / 256)
    places = {"dataset": "text", "data_dir": str(tmp_path / "data"), "out_dir": str(tmp_path / "out")}
    lengths = {"max_iters": length, "lr_decay_iters": length, "eval_interval": length, "trace_samples": True}
    summary = train(TrainSettings(**TINY | LEARNING | places | lengths))
    assert summary is not None
    assert summary.copied_share is not None
    assert summary.expected_copied_share is not None
    row = rows(tmp_path / "out", "eval")[-1]
    assert row["copied_share"] == summary.copied_share
    assert 500 <= row["traced_characters"] <= 2000
    said = capsys.readouterr().err
    assert "of what it writes is copied from its text, where text that it has not seen has " in said
    assert ("warning: the model recites: after " in said) == recites
    if recites:
        assert summary.copied_share > 0.1 + 2 * summary.expected_copied_share
        assert row["longest_copy"] >= 24


def test_an_index_that_would_take_the_minutes_is_not_made(
    tiny: MakeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    run = set_up(tiny(trace_samples=True, minutes=0.1))
    assert memorization.open_memorization(run) is None
    assert "trace_samples is left out: indexing the text takes about" in capsys.readouterr().err
    run.settings = run.settings.model_copy(update={"minutes": 1.0})
    assert memorization.open_memorization(run) is not None
    run.settings = run.settings.model_copy(update={"minutes": 0.1})  # it is there now
    assert memorization.open_memorization(run) is not None
