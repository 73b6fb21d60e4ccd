"""Quill as a candidate: `quill train own_text` in a process of its own, judged by its best checkpoint."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.api import Model, load
from quillgpt.bench.quality.at_rate import flags_at_rate
from quillgpt.bench.quality.candidates import Budget, Run
from quillgpt.bench.quality.held_out import SplitText
from quillgpt.bench.quality.processes import run_to_the_end
from quillgpt.bench.quality.scoring import Price, price_of
from quillgpt.bench.worker import Worker
from quillgpt.config import resolve
from quillgpt.config.runs import CONFIG
from quillgpt.config.sources import OWN_TEXT
from quillgpt.run_files import SUMMARY

CHOSEN = (
    *("n_layer", "n_head", "n_embd", "block_size", "batch_size", "gradient_accumulation_steps"),
    *("max_iters", "teacher_iters", "learning_rate", "muon_learning_rate", "dropout", "weight_decay"),
)
"""What is recorded of the settings that a run has chosen."""


def run_quill(split: SplitText, budget: Budget, flags: Mapping[str, str], folder: Path) -> Run:
    """Train on a text as a user would, and score the best checkpoint on the held-out part.

    Args:
        split: The text.
        budget: What the command may spend.
        flags: Further flags of `quill train own_text`.
        folder: An empty folder.

    Raises:
        UserError: The command failed.
    """
    text = folder / "text.txt"
    text.write_text(split.train, encoding="utf-8", newline="")
    out_dir = folder / "out"
    given = {"data": str(text), "dataset": "text", "data_dir": str(folder / "data"), "out_dir": str(out_dir)}
    given |= {"minutes": f"{budget.minutes:g}"} | dict(flags)
    if budget.operations is not None:
        with Worker(dict, given) as worker:
            given = worker.ask(flags_at_rate, budget.operations)
    threads = resolve(OWN_TEXT, given).threads
    words = [sys.executable, "-m", "quillgpt", "train", OWN_TEXT]
    started = time.perf_counter()
    run_to_the_end([*words, *(f"--{name}={value}" for name, value in given.items())], "quill train", folder=folder)
    seconds = time.perf_counter() - started
    with Worker(open_run, out_dir, threads) as worker:
        price = worker.ask(score_run, split)
        tokenizer = worker.ask(name_of_tokenizer)
    return Run(price, seconds, settings_of(out_dir) | {"tokenizer": tokenizer})


def open_run(out_dir: Path, threads: int | None) -> Model:
    """Load the best checkpoint of a run, to compute in float32."""
    return load(out_dir, device="cpu", dtype="float32", threads=threads)


def score_run(model: Model, split: SplitText) -> Price:
    """Return what a model pays for a held-out part, in windows of its own context."""
    *_, start = model.prompt(None)[1]

    def nats(inputs: Tensor, targets: Tensor) -> float:
        return float(model.gpt.loss_sum(inputs, targets))

    return price_of(split, model.tokenizer, start, model.config.block_size, nats)


def name_of_tokenizer(model: Model) -> str:
    """Return the name of a model's tokenizer, as one types it."""
    return model.tokenizer.name


def settings_of(out_dir: Path) -> dict[str, Any]:
    """Return what a run has chosen: its main settings, and its loss on its own validation split."""
    settings = tomllib.loads((out_dir / CONFIG).read_text(encoding="utf-8"))
    summary: dict[str, Any] = json.loads((out_dir / SUMMARY).read_text(encoding="utf-8"))
    return {name: settings[name] for name in CHOSEN if name in settings} | summary
