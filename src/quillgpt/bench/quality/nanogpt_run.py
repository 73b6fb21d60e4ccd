"""nanoGPT as a candidate: its recipe for a CPU, run by its own scripts for the same minutes."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quillgpt.bench.nanogpt_peer import ADVICE, import_model, loss_of
from quillgpt.bench.quality.candidates import Budget, Run
from quillgpt.bench.quality.held_out import SplitText
from quillgpt.bench.quality.processes import run_to_the_end
from quillgpt.bench.quality.scoring import Price, price_of
from quillgpt.bench.worker import Worker
from quillgpt.config import resolve
from quillgpt.device import choose_threads
from quillgpt.errors import UserError
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.training.planning.scaling import cost_of
from quillgpt.training.start.model_config import config_for

DATA = "data/shakespeare_char"
CONFIG = "config/train_shakespeare_char.py"
FILES = ("model.py", "train.py", "configurator.py", CONFIG, f"{DATA}/prepare.py")
CHECKPOINT = "out-shakespeare-char/ckpt.pt"

SAME_AS_OURS = "shakespeare_char_cpu"
"""The preset of Quill with the same model."""

RECIPE = {
    "device": "cpu",
    "compile": "False",
    "eval_iters": "20",
    "log_interval": "1",
    "block_size": "64",
    "batch_size": "12",
    "n_layer": "4",
    "n_head": "4",
    "n_embd": "128",
    "dropout": "0.0",
}
"""The flags of its README for a CPU, without the length."""

TOKENS_PER_ITERATION = 64 * 12
USUAL_INTERVAL = 250
"""Iterations from one evaluation to the next, as its config has them; the best checkpoint is kept."""

TRIED_ITERATIONS = 60
LINE = re.compile(r"^iter \d+: loss .*, time ([\d.]+)ms", re.MULTILINE)


@dataclass(frozen=True)
class Speed:
    """How fast its train.py is, from a short trial.

    Attributes:
        start: Seconds before the first iteration.
        iteration: Seconds of an iteration.
        evaluation: Seconds of an evaluation.
    """

    start: float
    iteration: float
    evaluation: float

    @classmethod
    def of(cls, printed: str, seconds: float) -> Speed:
        """Return the speed of a run that has evaluated once, at its first iteration.

        Args:
            printed: What it has printed.
            seconds: The duration of the command.

        Raises:
            UserError: It has printed no times.
        """
        times = [float(found) / 1000 for found in LINE.findall(printed)]
        if len(times) < 2:
            raise UserError("nanoGPT's train.py prints no times of iterations; give the folder of nanoGPT itself")
        iteration = statistics.median(times[1:])
        return cls(max(0.0, seconds - sum(times)), iteration, max(0.0, times[0] - iteration))

    def iterations_in(self, seconds: float) -> int:
        """Return how many iterations fit, with their evaluations."""
        left = seconds - self.start - self.evaluation
        return max(1, int(left / (self.iteration + self.evaluation / USUAL_INTERVAL)))


def check_checkout(checkout: Path) -> None:
    """Check that a folder has the scripts of nanoGPT that are run.

    Raises:
        UserError: One is missing.
    """
    for name in FILES:
        if not (checkout / name).is_file():
            raise UserError(f"{checkout / name} does not exist; {ADVICE}")


def run_nanogpt(split: SplitText, budget: Budget, checkout: Path, folder: Path, threads: int | None) -> Run:
    """Train nanoGPT's recipe for a CPU on a text, by characters, and score its best checkpoint by its own model.

    The iterations are as many as fit into the minutes with preparing and evaluating; a short trial, which does not
    count, tells. Its learning rate falls over all of them.

    Args:
        split: The text.
        budget: What it may spend.
        checkout: The folder of its source code, which stays as it is.
        folder: An empty folder.
        threads: CPU threads; None: as many as it takes by itself.

    Raises:
        UserError: The folder has no nanoGPT, or one of its scripts failed.
    """
    check_checkout(checkout)
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / name, folder / name)
    (folder / DATA / "input.txt").write_text(split.train, encoding="utf-8", newline="")
    environment = os.environ | {"PYTHONUTF8": "1"} | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})

    def run(*words: str) -> tuple[str, float]:
        started = time.perf_counter()
        printed = run_to_the_end(
            [sys.executable, *words], f"nanoGPT's {words[0]}", folder=folder, environment=environment
        )
        return printed, time.perf_counter() - started

    _, preparing = run(f"{DATA}/prepare.py")
    alphabet = read_nanogpt_meta(folder / DATA / "meta.pkl").vocab_size
    if budget.operations is not None:
        iterations = max(1, int(budget.operations / operations_of_an_iteration(alphabet)))
    else:
        trial = run("train.py", *train_flags(TRIED_ITERATIONS, interval=10 * TRIED_ITERATIONS))
        iterations = Speed.of(*trial).iterations_in(60 * budget.minutes - preparing)
    interval = max(1, round(iterations / max(1, round(iterations / USUAL_INTERVAL))))
    iterations = max(1, iterations // interval) * interval
    _, training = run("train.py", *train_flags(iterations, interval=interval))
    with Worker(open_checkpoint, folder, threads) as worker:
        price = worker.ask(score_checkpoint, split, folder)
        parameters = worker.ask(count_parameters)
    chosen = {"tokenizer": "char", "parameters": parameters, "max_iters": iterations, "eval_interval": interval}
    return Run(price, preparing + training, chosen)


def train_flags(iterations: int, *, interval: int) -> list[str]:
    """Return the words after train.py for so many iterations."""
    length = {"max_iters": iterations, "lr_decay_iters": iterations, "eval_interval": interval}
    return [CONFIG, *(f"--{name}={value}" for name, value in {**RECIPE, **length}.items())]


def operations_of_an_iteration(alphabet: int) -> float:
    """Return the operations of an iteration of its recipe on a text of so many different characters."""
    model = config_for(resolve(SAME_AS_OURS, {}, environ={}, dotenv=None), "char", alphabet)
    return cost_of(model).flops_per_token * TOKENS_PER_ITERATION


def open_checkpoint(folder: Path, threads: int | None) -> Any:
    """Return its model with the weights of its best checkpoint.

    Raises:
        UserError: It has saved none.
    """
    if not (folder / CHECKPOINT).is_file():
        raise UserError("nanoGPT has saved no checkpoint, since no evaluation was better than the one at its start")
    choose_threads(threads)
    stored = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    module = import_model(folder)
    model = module.GPT(module.GPTConfig(**stored["model_args"]))
    model.load_state_dict(stored["model"])
    return model.eval()


def score_checkpoint(model: Any, split: SplitText, folder: Path) -> Price:
    """Return what its model pays for a held-out part, in windows of its own context."""
    tokenizer = read_nanogpt_meta(folder / DATA / "meta.pkl")
    start = tokenizer.encode_prompt("\n")[0] if "\n" in split.train else 0

    def nats(inputs: Tensor, targets: Tensor) -> float:
        return float(loss_of(model, inputs, targets)) * targets.numel()

    return price_of(split, tokenizer, start, model.config.block_size, nats)


def count_parameters(model: Any) -> int:
    """Return the number of parameters of its model."""
    return sum(parameter.numel() for parameter in model.parameters())
