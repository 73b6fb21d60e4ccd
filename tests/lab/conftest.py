"""A small trained model with its text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from quillgpt.config import TrainSettings
from quillgpt.config.schema import LabSettings
from quillgpt.data.prepare import prepare
from quillgpt.lab.model_and_text import ModelAndText, open_model_and_text
from quillgpt.training import train

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "watch"]

SMALL: dict[str, Any] = {
    "dataset": "small",
    "arch": "qwen3",
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 32,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "max_iters": 150,
    "lr_decay_iters": 150,
    "warmup_iters": 5,
    "learning_rate": 1e-2,
    "min_lr": 1e-3,
    "eval_interval": 50,
    "eval_iters": 4,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "threads": 1,
    "always_save_checkpoint": False,
}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a data set `small` in `data`, and a softmax model trained on it in `SM`."""
    folder = tmp_path_factory.mktemp("lab")
    draw = random.Random(0)
    text = " ".join(draw.choice(WORDS) for _ in range(3000))
    (folder / "small.txt").write_text(text + "\n", encoding="utf-8")
    prepare([str(folder / "small.txt")], data_dir=folder / "data", tokenizer="char")
    train(TrainSettings(**SMALL, out_dir=str(folder / "SM"), data_dir=str(folder / "data")))
    return folder


@pytest.fixture
def opened(place: Path) -> ModelAndText:
    return open_model_and_text(str(place / "SM"), LabSettings(data_dir=str(place / "data"), threads=1, blocks=12))
