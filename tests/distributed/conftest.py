"""A small text, and the words of commands that train on it in a second."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from quillgpt.data.prepare import prepare
from ranks import settings_as_flags

TINY: dict[str, object] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 16,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_iters": 50,
    "lr_decay_iters": 50,
    "warmup_iters": 2,
    "learning_rate": 3e-3,
    "min_lr": 3e-4,
    "eval_interval": 25,
    "eval_iters": 3,
    "log_interval": 1,
    "vocab_size": 320,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "attn_path": "explicit",
    "threads": 1,
    "dataset": "tiny",
    "quiet": True,
}

Words = Callable[..., list[str]]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    """Return a function from settings to the words of `quill train`; all train on one data set."""
    folder = tmp_path_factory.mktemp("ranks")
    draw = random.Random(0)
    names = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "watch"]
    for dataset in ("tiny", "other"):
        text = folder / f"{dataset}.txt"
        text.write_text(" ".join(draw.choice(names) for _ in range(1500)) + "\n", encoding="utf-8")
        prepare([str(text)], data_dir=folder / "data", tokenizer="byte")

    def make(out_dir: str, **changes: object) -> list[str]:
        places = {"out_dir": folder / out_dir, "data_dir": folder / "data"}
        settings = TINY | places | changes
        quiet = ["--quiet"] if settings.pop("quiet") else []
        return ["train", *settings_as_flags(settings), *quiet]

    return make
