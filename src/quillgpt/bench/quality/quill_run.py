"""Quill as a candidate: `quill train own_text` in a process of its own, judged by its best checkpoint."""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quillgpt.api import Model, load
from quillgpt.bench.quality.at_rate import flags_at_rate
from quillgpt.bench.quality.held_out import SplitText, readable_part
from quillgpt.bench.quality.processes import run_to_the_end
from quillgpt.bench.quality.scoring import Price, bits_of
from quillgpt.bench.worker import Worker
from quillgpt.config.runs import CONFIG
from quillgpt.config.sources import OWN_TEXT
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.training.folder.out_dir import SUMMARY

CHOSEN = (
    *("tokenizer", "n_layer", "n_head", "n_embd", "block_size", "batch_size", "gradient_accumulation_steps"),
    *("max_iters", "learning_rate", "muon_learning_rate", "dropout", "weight_decay"),
)
"""What is recorded of the settings that a run has chosen."""


@dataclass(frozen=True)
class Budget:
    """What a candidate may spend.

    Attributes:
        minutes: Minutes of the whole command.
        rate: Operations in a second that are assumed instead of the machine's own, and then the clock does not count;
            None: the clock counts.
    """

    minutes: float
    rate: float | None = None

    @property
    def operations(self) -> float | None:
        """Operations of all iterations, where the clock does not count."""
        return None if self.rate is None else 60 * self.minutes * self.rate


@dataclass(frozen=True)
class Run:
    """A run of a candidate.

    Attributes:
        price: What its model pays for the held-out part.
        seconds: The duration of its command.
        chosen: Its settings, as far as they are recorded.
    """

    price: Price
    seconds: float
    chosen: dict[str, Any]


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
    words = [sys.executable, "-m", "quillgpt", "train", OWN_TEXT]
    started = time.perf_counter()
    run_to_the_end([*words, *(f"--{name}={value}" for name, value in given.items())], "quill train", folder=folder)
    seconds = time.perf_counter() - started
    with Worker(open_run, out_dir) as worker:
        price = worker.ask(score_run, split)
    return Run(price, seconds, settings_of(out_dir))


def open_run(out_dir: Path) -> Model:
    """Load the best checkpoint of a run, to compute in float32."""
    return load(out_dir, device="cpu", dtype="float32")


def score_run(model: Model, split: SplitText) -> Price:
    """Return what a model pays for a held-out part, in windows of its own context."""
    tokenizer = model.tokenizer
    readable = readable_part(split, tokenizer.characters if isinstance(tokenizer, CharTokenizer) else None)
    ids = tokenizer.encode(readable.text).tolist()
    *_, start = model.prompt(None)[1]
    bits = bits_of(
        ids, start, model.config.block_size, lambda inputs, targets: float(model.gpt.loss_sum(inputs, targets))
    )
    return Price(bits + readable.bits, readable.unknown)


def settings_of(out_dir: Path) -> dict[str, Any]:
    """Return what a run has chosen: its main settings, and its loss on its own validation split."""
    settings = tomllib.loads((out_dir / CONFIG).read_text(encoding="utf-8"))
    summary: dict[str, Any] = json.loads((out_dir / SUMMARY).read_text(encoding="utf-8"))
    return {name: settings[name] for name in CHOSEN if name in settings} | summary
