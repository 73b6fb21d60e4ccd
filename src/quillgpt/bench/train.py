"""Training throughput of a preset, on random tokens: data loading and the optimizer included, evaluation left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from quillgpt.bench import huggingface, nanogpt
from quillgpt.bench.measured_model import measured_config, shape_numbers
from quillgpt.bench.memory import PeakMemory, peak_so_far
from quillgpt.bench.peers import NANOGPT, QUILL, Candidate
from quillgpt.bench.profiling import profile_operations
from quillgpt.bench.results import Profile, TrainResult, common_numbers
from quillgpt.bench.rounds import Timing, run_rounds
from quillgpt.bench.step import PeerStep
from quillgpt.bench.worker import workers
from quillgpt.config.schema import TrainSettings
from quillgpt.data.batches import Tokens, TrainingWindows, gather
from quillgpt.device import choose_threads, peak, to_device
from quillgpt.model import GPT, GPTConfig
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.training.choices import Machine, choose_compile, choose_machine, choose_paths
from quillgpt.training.memory import check_memory
from quillgpt.training.planning.scaling import cost_of, with_usual_size
from quillgpt.training.step import TrainStep

RANDOM_TOKENS = 1_000_000
PROFILED_ITERATIONS = 2


@dataclass(frozen=True)
class TrainWork:
    """What every candidate does.

    Attributes:
        settings: Batch, optimizer and machine.
        config: Of the model.
        compile_peers: Compile the peers' models.
    """

    settings: TrainSettings
    config: GPTConfig
    compile_peers: bool


@dataclass(frozen=True)
class Description:
    """What a candidate is.

    Attributes:
        settings: With every automatic choice made.
        how: How it is run, in words.
        parameters: Values in its model.
        dtype: The number format that its matrix products are computed in.
    """

    settings: TrainSettings
    how: str
    parameters: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Trainee:
    """A candidate that is ready to train.

    Attributes:
        description: What it is.
        iterate: Does an iteration and waits for its loss.
    """

    description: Description
    iterate: Callable[[int], object]

    def describe(self) -> Description:
        """Return what it is, without what only its own process can hold."""
        return self.description

    def rate(self, iterations: int) -> float:
        """Do iterations, and return how many it does in a second."""
        start = time.perf_counter()
        for iteration in range(iterations):
            self.iterate(iteration)
        return iterations / (time.perf_counter() - start)

    def profile(self, trace: Path) -> Profile:
        """Profile a few iterations and write their trace."""

        def iterate() -> None:
            for iteration in range(PROFILED_ITERATIONS):
                self.iterate(iteration)

        operations = profile_operations(iterate, torch.device(self.description.settings.device), trace)
        title = f"costliest operations of {PROFILED_ITERATIONS} iterations of quill, time in themselves"
        return Profile(title, operations, trace)


def bench_training(
    settings: TrainSettings,
    *,
    vocabulary: int | None,
    iterations: int,
    rounds: int,
    peers: Sequence[Candidate],
    compile_peers: bool,
    trace: Path | None,
) -> tuple[dict[str, object], list[TrainResult], Profile | None]:
    """Measure training iterations.

    Args:
        settings: The preset to time.
        vocabulary: Tokens of the vocabulary; None takes what the preset's tokenizer usually has.
        iterations: Iterations of a round.
        rounds: Counted rounds.
        peers: Who runs in turn with Quill.
        compile_peers: Let torch.compile compile the peers' models.
        trace: Where to write a profile of Quill's iterations; None makes none.

    Returns:
        What was measured, the results, Quill's first, and the profile.
    """
    settings, machine = choose_machine(with_usual_size(settings))
    config = measured_config(settings, vocabulary)
    check_memory(settings, config, machine.device)
    work = TrainWork(choose_paths(settings, config, machine), config, compile_peers)
    with workers(make_trainee, work, (QUILL, *peers)) as asked:
        timings = run_rounds(
            {name: partial(worker.ask, Trainee.rate, iterations) for name, worker in asked.items()}, rounds
        )
        memories = {name: worker.ask(peak_so_far, settings.device) for name, worker in asked.items()}
        profile = None if trace is None else asked[QUILL.name].ask(Trainee.profile, trace)
        descriptions = {name: worker.ask(Trainee.describe) for name, worker in asked.items()}
    results = [_result(name, descriptions[name], work, timings[name], memories[name], machine) for name in timings]
    return _about(settings, config, machine, iterations), results, profile


def make_trainee(work: TrainWork, candidate: Candidate) -> Trainee:
    """Make a candidate's model and optimizer.

    Raises:
        UserError: A peer is not there, or has no such model.
    """
    settings = work.settings
    device = torch.device(settings.device)
    tokens = np.random.default_rng(0).integers(0, work.config.vocab_size, RANDOM_TOKENS, dtype=np.uint32)
    torch.manual_seed(settings.seed)
    if candidate == QUILL:
        settings, machine = choose_machine(settings)
        model = GPT(work.config, dropout=settings.dropout, attn_path=settings.attn_path, seed=settings.seed)
        model.to(device)
        settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine)})
        step = TrainStep(model, make_optimizers(model, settings), tokens, settings, machine)
        how = f"{_compiled(settings.compile)}, {settings.attn_path} attention, "
        how += f"{settings.micro_batch_size:,} sequences at once"
        description = Description(settings, how, model.parameter_count(), machine.dtype)
        return Trainee(description, lambda iteration: float(step(iteration)))
    choose_threads(settings.threads)
    program: ModuleType
    if candidate.name == NANOGPT:
        assert candidate.checkout is not None
        peer, program = nanogpt.make_model(candidate.checkout, work.config, settings.dropout), nanogpt
        how = "model.py"
    else:
        peer, program = huggingface.make_model(work.config, settings.dropout), huggingface
        how = huggingface.describe(peer, work.config)
    peer.to(device)
    iterate = PeerStep(
        torch.compile(peer) if work.compile_peers else peer,
        loss_of=program.loss_of,
        optimizer=program.make_optimizer(peer, settings, device),
        batch_size=settings.batch_size,
        device=device,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    how = f"{how}, {_compiled(work.compile_peers)}, {settings.batch_size:,} sequences at once"
    parameters = sum(parameter.numel() for parameter in peer.parameters())
    return Trainee(Description(settings, how, parameters, dtype), _with_batches(iterate, tokens, settings, device))


def _with_batches(
    step: PeerStep, tokens: Tokens, settings: TrainSettings, device: torch.device
) -> Callable[[int], object]:
    """Give a peer the batches that Quill trains on."""
    windows = TrainingWindows(len(tokens), settings.block_size, settings.seed)
    batch = settings.sequences_per_iteration

    def iterate(iteration: int) -> float:
        inputs, targets = gather(tokens, windows.starts(iteration * batch, batch), settings.block_size)
        return step(to_device(inputs, device), to_device(targets.contiguous(), device))

    return iterate


def _result(
    name: str, description: Description, work: TrainWork, timing: Timing, memory: PeakMemory, machine: Machine
) -> TrainResult:
    limit = peak(machine.device, description.dtype)
    dtype = str(description.dtype).removeprefix("torch.")
    tokens = work.settings.tokens_per_iteration
    return TrainResult(
        **common_numbers(name, description.how, timing, tokens, memory),
        dtype=dtype,
        parameters=description.parameters,
        ms_per_iteration=1e3 / timing.median,
        mfu=timing.median * tokens * cost_of(work.config).flops_per_token / limit.flops_per_second,
        peak_flops_per_second=limit.flops_per_second,
        peak_flops_source=f"{limit.source}, {dtype}",
    )


def _about(settings: TrainSettings, config: GPTConfig, machine: Machine, iterations: int) -> dict[str, object]:
    return {
        "machine": machine.description,
        "threads": settings.threads,
        "torch": torch.__version__,
        **shape_numbers(config),
        "dropout": settings.dropout,
        "batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "tokens_per_iteration": settings.tokens_per_iteration,
        "iterations_per_round": iterations,
    }


def _compiled(compiled: object) -> str:
    return "compiled" if compiled else "eager"
