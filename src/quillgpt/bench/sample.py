"""Sampling throughput of a preset's model with random weights, prefill and the choice of tokens included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import torch

from quillgpt.bench import nanogpt_peer, transformers_peer
from quillgpt.bench.measured_model import measured_config, reported_sizes
from quillgpt.bench.memory import peak_so_far
from quillgpt.bench.peers import NANOGPT, QUILL, Candidate, Implementation
from quillgpt.bench.profiling import profile_operations
from quillgpt.bench.results import Profile, SampleResult, common_numbers
from quillgpt.bench.rounds import run_rounds
from quillgpt.bench.worker import workers
from quillgpt.config.schema import Quantize, Sampling, TrainSettings
from quillgpt.device import (
    choose_device,
    choose_dtype,
    choose_threads,
    device_description,
    synchronize,
    use_large_pages,
)
from quillgpt.generation import generate_ids
from quillgpt.model import GPT, GPTConfig, check_quantize, for_inference
from quillgpt.training.planning.scaling import with_usual_size
from quillgpt.training.start.memory import check_memory

TEMPERATURE, TOP_K = 0.8, 200
PROFILED_TOKENS = 50


@dataclass(frozen=True)
class SampleWork:
    """The work of every candidate.

    Attributes:
        settings: Device, number format, threads and seed.
        config: The model's configuration.
        tokens: New tokens of a sample.
        samples: Number of samples.
        quantize: How Quill's weights are quantized.
    """

    settings: TrainSettings
    config: GPTConfig
    tokens: int
    samples: int
    quantize: Quantize


@dataclass(frozen=True)
class Sampler:
    """A candidate that is ready to sample.

    Attributes:
        work: Its work.
        implementation: How it computes its model.
        draw: Draws all samples, given the number of new tokens of each.
    """

    work: SampleWork
    implementation: Implementation
    draw: Callable[[int], object]

    def rate(self) -> float:
        """Draw the samples and return the tokens per second."""
        start = time.perf_counter()
        self.draw(self.work.tokens)
        synchronize(torch.device(self.work.settings.device))
        return self.work.samples * self.work.tokens / (time.perf_counter() - start)

    def profile(self, trace: Path) -> Profile:
        """Profile the sampling of a few tokens and write the trace."""
        count = min(self.work.tokens, PROFILED_TOKENS)
        device = torch.device(self.work.settings.device)
        operations = profile_operations(lambda: self.draw(count), device, trace)
        title = f"costliest operations of {self.work.samples:,} x {count:,} new tokens of quill, time in themselves"
        return Profile(title, operations, trace)


def bench_sampling(
    settings: TrainSettings,
    *,
    vocabulary: int | None,
    tokens: int,
    samples: int,
    quantize: Quantize,
    rounds: int,
    peers: Sequence[Candidate],
    trace: Path | None,
) -> tuple[dict[str, object], list[SampleResult], Profile | None]:
    """Measure generated tokens per second, over all samples together.

    Args:
        settings: The preset whose model is timed, with device, dtype and threads.
        vocabulary: Vocabulary size; None takes that of the preset, or the usual one of its tokenizer.
        tokens: New tokens of a sample.
        samples: Number of samples, drawn together.
        quantize: How Quill's weights are quantized; the peers' are not.
        rounds: Counted rounds.
        peers: The programs that run in turn with Quill.
        trace: The file for a profile of Quill's sampling; None makes none.

    Returns:
        The conditions of the measurement, the results with Quill's first, and the profile.
    """
    settings = with_usual_size(settings)
    threads = choose_threads(settings.threads)
    device = choose_device(settings.device)
    check_quantize(quantize, device)
    dtype = str(choose_dtype(settings.dtype, device)).removeprefix("torch.")
    config = measured_config(settings, vocabulary)
    check_memory(settings.model_copy(update={"eval_only": True}), config, device)
    chosen = {"threads": threads, "device": str(device), "dtype": dtype}
    work = SampleWork(
        settings.model_copy(update=chosen),
        config,
        tokens=tokens,
        samples=samples,
        quantize=quantize,
    )
    with workers(make_sampler, work, (QUILL, *peers)) as asked:
        throughputs = run_rounds({name: partial(worker.ask, Sampler.rate) for name, worker in asked.items()}, rounds)
        memories = {name: worker.ask(peak_so_far, str(device)) for name, worker in asked.items()}
        profile = None if trace is None else asked[QUILL.name].ask(Sampler.profile, trace)
        implementations = {name: worker.ask(attrgetter("implementation")) for name, worker in asked.items()}
    results = [
        SampleResult(
            **common_numbers(name, implementation.how, throughputs[name], 1, memories[name]),
            dtype=implementation.dtype,
            parameters=implementation.parameters,
            ms_per_token=1e3 / throughputs[name].median,
        )
        for name, implementation in implementations.items()
    ]
    about = {
        "machine": f"{device} ({device_description(device)})",
        "threads": threads,
        "torch": torch.__version__,
        **reported_sizes(work.config),
        "samples": samples,
        "new_tokens_per_sample": tokens,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
    }
    return about, results, profile


def make_sampler(work: SampleWork, candidate: Candidate) -> Sampler:
    """Make a candidate's model.

    Raises:
        UserError: A peer is missing, has no such architecture, or cannot draw so many tokens.
    """
    settings, config = work.settings, work.config
    choose_threads(settings.threads)
    device = choose_device(settings.device)
    if candidate == QUILL:
        use_large_pages()  # as in `quill sample`; each candidate has a process of its own
        model = GPT(config, seed=settings.seed).to(device).eval()
        inference_model = for_inference(model, choose_dtype(settings.dtype, device), quantize=work.quantize)
        sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, num_samples=work.samples, seed=settings.seed)

        def draw(tokens: int) -> None:
            limited = sampling.model_copy(update={"max_new_tokens": tokens})
            for _ in generate_ids(inference_model, [0], limited, vocab_size=config.vocab_size):
                pass

        how = "key-value cache, all samples in one batch"
        number_format = settings.dtype if work.quantize == "none" else work.quantize
        return Sampler(work, Implementation(how, number_format, model.parameter_count()), draw)
    program: ModuleType
    if candidate.name == NANOGPT:
        assert candidate.checkout is not None
        peer, program = nanogpt_peer.make_model(candidate.checkout, config, 0.0), nanogpt_peer
        dtype = "bfloat16" if device.type == "cuda" else "float32"
        how = "model.py, no cache, one sample after the other"
    else:
        transformers_peer.check_context(config, work.tokens)
        peer, program = transformers_peer.make_model(config, 0.0), transformers_peer
        dtype = "float32"  # the format in which it loads weights by default
        how = f"{transformers_peer.description(peer, config)}, key-value cache, all samples in one batch"
    peer.to(device).eval()
    draw_peer = partial(program.draw, peer, samples=work.samples, temperature=TEMPERATURE, top_k=TOP_K, device=device)
    parameters = sum(parameter.numel() for parameter in peer.parameters())
    return Sampler(work, Implementation(how, dtype, parameters), lambda tokens: draw_peer(tokens=tokens))
