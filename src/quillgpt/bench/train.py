"""Training throughput of a preset on random tokens, with data loading and the optimizer, without evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from quillgpt.bench import nanogpt_peer, transformers_peer
from quillgpt.bench.measured_model import measured_config, reported_sizes
from quillgpt.bench.memory import PeakMemory, peak_so_far
from quillgpt.bench.peer_step import PeerStep
from quillgpt.bench.peers import NANOGPT, QUILL, Candidate, Implementation
from quillgpt.bench.profiling import profile_operations
from quillgpt.bench.results import Profile, TrainResult, common_numbers
from quillgpt.bench.rounds import Throughput, run_rounds
from quillgpt.bench.worker import workers
from quillgpt.config.schema import ChosenSettings, ResolvedSettings, TrainSettings
from quillgpt.data.batches import Source, Tokens
from quillgpt.device import choose_threads, peak, to_device
from quillgpt.model import GPT, GPTConfig
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.cuda_graph import kind_of_step
from quillgpt.training.planning.scaling import cost_of, with_usual_size
from quillgpt.training.run import training_batches
from quillgpt.training.start.choices import Machine, choose_machine, choose_paths
from quillgpt.training.start.compile_choice import choose_compile
from quillgpt.training.start.memory import check_memory

RANDOM_TOKENS = 1_000_000
PROFILED_ITERATIONS = 2


@dataclass(frozen=True)
class TrainWork:
    """The work of every candidate.

    Attributes:
        settings: The settings of the batch, the optimizer and the machine.
        config: The model's configuration.
        compile_peers: Whether to compile the peers' models.
    """

    settings: ChosenSettings
    config: GPTConfig
    compile_peers: bool


@dataclass(frozen=True)
class Trainee:
    """A candidate that is ready to train.

    Attributes:
        implementation: How it computes its model.
        device: Where the model is.
        iterate: Runs an iteration, given its number, and waits for the loss.
    """

    implementation: Implementation
    device: torch.device
    iterate: Callable[[int], object]

    def rate(self, iterations: int) -> float:
        """Run the iterations and return how many it runs in a second."""
        start = time.perf_counter()
        for iteration in range(iterations):
            self.iterate(iteration)
        return iterations / (time.perf_counter() - start)

    def profile(self, trace: Path) -> Profile:
        """Profile a few iterations and write the trace."""

        def iterate() -> None:
            for iteration in range(PROFILED_ITERATIONS):
                self.iterate(iteration)

        operations = profile_operations(iterate, self.device, trace)
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
    """Measure the speed of training iterations.

    Args:
        settings: The preset to time.
        vocabulary: Vocabulary size; None takes that of the preset, or the usual one of its tokenizer.
        iterations: Iterations in a round.
        rounds: Counted rounds.
        peers: The programs that run in turn with Quill.
        compile_peers: Compile the peers' models with torch.compile.
        trace: The file for a profile of Quill's iterations; None makes none.

    Returns:
        The conditions of the measurement, the results with Quill's first, and the profile.
    """
    settings, machine = choose_machine(with_usual_size(settings))
    config = measured_config(settings, vocabulary)
    check_memory(settings, config, machine.device)
    work = TrainWork(choose_paths(settings, config, machine), config, compile_peers)
    with workers(make_trainee, work, (QUILL, *peers)) as asked:
        throughputs = run_rounds(
            {name: partial(worker.ask, Trainee.rate, iterations) for name, worker in asked.items()}, rounds
        )
        memories = {name: worker.ask(peak_so_far, settings.device) for name, worker in asked.items()}
        profile = None if trace is None else asked[QUILL.name].ask(Trainee.profile, trace)
        implementations = {name: worker.ask(attrgetter("implementation")) for name, worker in asked.items()}
    results = [
        _result(name, implementations[name], work, throughputs[name], memories[name], machine) for name in throughputs
    ]
    return _about(settings, config, machine, iterations), results, profile


def make_trainee(work: TrainWork, candidate: Candidate) -> Trainee:
    """Make a candidate's model and optimizer.

    Raises:
        UserError: A peer is missing, or has no such architecture.
    """
    settings = work.settings
    device = torch.device(settings.device)
    tokens = np.random.default_rng(0).integers(0, work.config.vocab_size, RANDOM_TOKENS, dtype=np.uint32)
    torch.manual_seed(settings.seed)
    if candidate == QUILL:
        _, machine = choose_machine(settings)  # which also tells PyTorch of the threads
        model = GPT(work.config, dropout=settings.dropout, attn_path=settings.attn_path, seed=settings.seed)
        model.to(device)
        settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine), "patience": 0})
        batches = training_batches(settings, [Source(tokens)])
        resolved = ResolvedSettings.of(settings)
        step = kind_of_step(resolved, device)(model, make_optimizers(model, resolved), batches, resolved, machine)
        recorded = "recorded as a CUDA graph, " if resolved.cuda_graph else ""
        how = f"{_compiled(settings.compile)}, {recorded}{settings.attn_path} attention, "
        how += f"{settings.micro_batch_size:,} sequences at once"
        implementation = Implementation(how, str(machine.dtype).removeprefix("torch."), model.parameter_count())
        return Trainee(
            implementation, device, lambda iteration: float(step(iteration, learning_rate(iteration, settings)).loss)
        )
    choose_threads(settings.threads)
    program: ModuleType
    if candidate.name == NANOGPT:
        assert candidate.checkout is not None
        peer, program = nanogpt_peer.make_model(candidate.checkout, work.config, settings.dropout), nanogpt_peer
        how = "model.py"
    else:
        peer, program = transformers_peer.make_model(work.config, settings.dropout), transformers_peer
        how = transformers_peer.description(peer, work.config)
    peer.to(device)
    iterate = PeerStep(
        torch.compile(peer) if work.compile_peers else peer,
        loss_of=program.loss_of,
        optimizer=program.make_optimizer(peer, settings, device),
        batch_size=settings.batch_size,
        device=device,
    )
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    how = f"{how}, {_compiled(work.compile_peers)}, {settings.batch_size:,} sequences at once"
    parameters = sum(parameter.numel() for parameter in peer.parameters())
    implementation = Implementation(how, dtype, parameters)
    return Trainee(implementation, device, _with_batches(iterate, tokens, settings, device))


def _with_batches(
    step: PeerStep, tokens: Tokens, settings: TrainSettings, device: torch.device
) -> Callable[[int], object]:
    """Return an iteration of a peer on the batches that Quill trains on."""
    batches = training_batches(settings, [Source(tokens)])

    def iterate(iteration: int) -> float:
        inputs, targets = batches.batch(iteration)
        return step(to_device(inputs, device), to_device(targets.contiguous(), device))

    return iterate


def _result(
    name: str,
    implementation: Implementation,
    work: TrainWork,
    throughput: Throughput,
    memory: PeakMemory,
    machine: Machine,
) -> TrainResult:
    dtype = implementation.dtype
    limit = peak(machine.device, getattr(torch, dtype))
    tokens = work.settings.tokens_per_iteration
    return TrainResult(
        **common_numbers(name, implementation.how, throughput, tokens, memory),
        dtype=dtype,
        parameters=implementation.parameters,
        ms_per_iteration=1e3 / throughput.median,
        mfu=throughput.median * tokens * cost_of(work.config).flops_per_token / limit.flops_per_second,
        peak_flops_per_second=limit.flops_per_second,
        peak_flops_source=f"{limit.source}, {dtype}",
    )


def _about(settings: TrainSettings, config: GPTConfig, machine: Machine, iterations: int) -> dict[str, object]:
    return {
        "machine": machine.description,
        "threads": settings.threads,
        "torch": torch.__version__,
        **reported_sizes(config),
        "dropout": settings.dropout,
        "batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "tokens_per_iteration": settings.tokens_per_iteration,
        "iterations_per_round": iterations,
    }


def _compiled(compiled: object) -> str:
    return "compiled" if compiled else "eager"
