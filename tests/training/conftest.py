"""A small text and settings with which a run takes a second."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quillgpt.config import TrainSettings
from quillgpt.data.prepare import prepare
from quillgpt.device import Peak
from quillgpt.optim.schedule import learning_rate
from quillgpt.training import trainer
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.run import Run
from quillgpt.training.start import choices
from quillgpt.training.step import TrainStep

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards", "watch"]

TINY: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 32,
    "block_size": 16,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_iters": 12,
    "lr_decay_iters": 12,
    "warmup_iters": 2,
    "learning_rate": 1e-2,
    "min_lr": 1e-3,
    "eval_interval": 4,
    "eval_iters": 4,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
    "attn_path": "explicit",
    "threads": 1,
    "dataset": "tiny",
    "always_save_checkpoint": False,
}


def allow_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs compute in float16 on a CPU, where it is slow and refused otherwise; so is finding its peak."""
    monkeypatch.setattr(choices, "choose_dtype", lambda *_: torch.float16)
    monkeypatch.setattr(trainer, "peak", lambda *_: Peak(1e12, "assumed"))


MakeSettings = Callable[..., TrainSettings]


class Steps:
    """The iterations of a run, as its trainer does them: calling one by its number returns its loss."""

    def __init__(self, run: Run, step: TrainStep | None = None) -> None:
        self.run, self.step = run, step or make_step(run)

    def __call__(self, iteration: int) -> float:
        return float(self.step(iteration, learning_rate(iteration, self.run.settings)).loss)


@pytest.fixture
def fresh_compiler() -> None:
    """Let torch.compile compile: after some recompilations in one process it runs functions uncompiled."""
    torch.compiler.reset()


@pytest.fixture
def tiny(tmp_path: Path) -> MakeSettings:
    """Make settings of a tiny run in a temporary folder, with a data set of random words."""
    draw = random.Random(0)
    text = tmp_path / "tiny.txt"
    text.write_text(" ".join(draw.choice(WORDS) for _ in range(1500)) + "\n", encoding="utf-8")
    prepare([str(text)], data_dir=tmp_path / "data", tokenizer="char")

    def make(**changes: Any) -> TrainSettings:
        places = {"out_dir": str(tmp_path / "out"), "data_dir": str(tmp_path / "data")}
        return TrainSettings(**(TINY | places | changes))

    return make
