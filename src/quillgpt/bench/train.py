"""Training throughput of a preset, on random tokens: data loading and the optimizer included, evaluation left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from quillgpt.bench.nanogpt import NanoGPTStep, make_model
from quillgpt.bench.rounds import Candidate, Result, run_rounds
from quillgpt.config.schema import TrainSettings
from quillgpt.data.batches import TrainingWindows, gather
from quillgpt.device import to_device
from quillgpt.model import GPT
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.training.choices import choose_compile, choose_machine, choose_paths
from quillgpt.training.setup import model_shape
from quillgpt.training.step import TrainStep

RANDOM_TOKENS = 1_000_000


def bench_training(
    settings: TrainSettings, *, vocab_size: int, iterations: int, rounds: int, nanogpt: Path | None, compile_peer: bool
) -> tuple[TrainSettings, list[Result]]:
    """Measure tokens per second of training iterations.

    Args:
        settings: The preset to time.
        vocab_size: Rows of the vocabulary, where the settings leave it to a tokenizer.
        iterations: Iterations of a round.
        rounds: Counted rounds.
        nanogpt: A nanoGPT checkout to run in turn with Quill.
        compile_peer: Let torch.compile compile nanoGPT's model.

    Returns:
        The settings with every automatic choice made, and the results in tokens per second, Quill first.
    """
    settings, machine = choose_machine(settings)
    shape = model_shape(settings, settings.vocab_size or vocab_size)
    settings = choose_paths(settings, shape, machine)
    model = GPT(shape, dropout=settings.dropout, attn_path=settings.attn_path, seed=settings.seed).to(machine.device)
    settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine)})
    tokens = np.random.default_rng(0).integers(0, vocab_size, RANDOM_TOKENS).astype(np.uint16)
    step = TrainStep(model, make_optimizers(model, settings), tokens, settings, machine)
    count = settings.tokens_per_iteration * iterations
    candidates: dict[str, Candidate] = {"quill": lambda: count / _seconds(lambda i: float(step(i)), iterations)}
    if nanogpt is not None:
        peer = NanoGPTStep(
            make_model(nanogpt, shape, settings.dropout).to(machine.device),
            batch_size=settings.batch_size,
            accumulation=settings.gradient_accumulation_steps,
            learning_rate=settings.learning_rate,
            compiled=compile_peer,
        )
        windows = TrainingWindows(len(tokens), settings.block_size, settings.seed)
        batch = settings.sequences_per_iteration

        def iterate(iteration: int) -> float:
            inputs, targets = gather(tokens, windows.starts(iteration * batch, batch), settings.block_size)
            return peer(to_device(inputs, machine.device), to_device(targets.contiguous(), machine.device))

        candidates["nanogpt"] = lambda: count / _seconds(iterate, iterations)
    torch.manual_seed(settings.seed)
    return settings, run_rounds(candidates, rounds)


def _seconds(iterate: Callable[[int], float], iterations: int) -> float:
    start = time.perf_counter()
    for iteration in range(iterations):
        iterate(iteration)
    return time.perf_counter() - start
