"""Sampling throughput of a preset's model shape, with random weights: prefill and the choice of tokens included."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch

from quillgpt.bench import huggingface, nanogpt
from quillgpt.bench.measured_model import measured_config, shape_numbers
from quillgpt.bench.memory import peak_so_far
from quillgpt.bench.peers import NANOGPT, QUILL, Candidate
from quillgpt.bench.profiling import profile_operations
from quillgpt.bench.results import Profile, SampleResult, common_numbers
from quillgpt.bench.rounds import run_rounds
from quillgpt.bench.worker import workers
from quillgpt.config.schema import Quantize, Sampling, TrainSettings
from quillgpt.device import choose_device, choose_dtype, choose_threads, device_description, synchronize
from quillgpt.generation import generate_ids
from quillgpt.model import GPT, GPTConfig, check_quantize, for_inference
from quillgpt.training.memory import check_memory
from quillgpt.training.planning.scaling import with_usual_size

TEMPERATURE, TOP_K = 0.8, 200
PROFILED_TOKENS = 50


@dataclass(frozen=True)
class SampleWork:
    """What every candidate does.

    Attributes:
        settings: Device, number format, threads and seed.
        config: Of the model.
        tokens: New tokens of a sample.
        samples: Samples drawn.
        quantize: Whether Quill's weights have 8 bits.
    """

    settings: TrainSettings
    config: GPTConfig
    tokens: int
    samples: int
    quantize: Quantize


@dataclass(frozen=True)
class Description:
    """What a candidate is.

    Attributes:
        how: How it is run, in words.
        dtype: The number format of its matrix products.
        parameters: Values in its model.
    """

    how: str
    dtype: str
    parameters: int


@dataclass(frozen=True)
class Sampler:
    """A candidate that is ready to sample.

    Attributes:
        work: What it does.
        description: What it is.
        draw: Draws all samples, each with so many new tokens.
    """

    work: SampleWork
    description: Description
    draw: Callable[[int], object]

    def describe(self) -> Description:
        """Return what it is, without what only its own process can hold."""
        return self.description

    def rate(self) -> float:
        """Draw the samples, and return how many tokens it draws in a second."""
        start = time.perf_counter()
        self.draw(self.work.tokens)
        synchronize(torch.device(self.work.settings.device))
        return self.work.samples * self.work.tokens / (time.perf_counter() - start)

    def profile(self, trace: Path) -> Profile:
        """Profile a few tokens and write their trace."""
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
    """Measure generated tokens per second, all samples together.

    Args:
        settings: The preset whose model is timed; device, dtype and threads.
        vocabulary: Tokens of the vocabulary; None takes what the preset's tokenizer usually has.
        tokens: New tokens of a sample.
        samples: Samples side by side.
        quantize: Whether Quill's weights have 8 bits; the peers' keep theirs.
        rounds: Counted rounds.
        peers: Who runs in turn with Quill.
        trace: Where to write a profile of Quill's sampling; None makes none.

    Returns:
        What was measured, the results, Quill's first, and the profile.
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
        timings = run_rounds({name: partial(worker.ask, Sampler.rate) for name, worker in asked.items()}, rounds)
        memories = {name: worker.ask(peak_so_far, str(device)) for name, worker in asked.items()}
        profile = None if trace is None else asked[QUILL.name].ask(Sampler.profile, trace)
        descriptions = {name: worker.ask(Sampler.describe) for name, worker in asked.items()}
    results = [
        SampleResult(
            **common_numbers(name, description.how, timings[name], 1, memories[name]),
            dtype=description.dtype,
            parameters=description.parameters,
            ms_per_token=1e3 / timings[name].median,
        )
        for name, description in descriptions.items()
    ]
    about = {
        "machine": f"{device} ({device_description(device)})",
        "threads": threads,
        "torch": torch.__version__,
        **shape_numbers(work.config),
        "samples": samples,
        "new_tokens_per_sample": tokens,
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
    }
    return about, results, profile


def make_sampler(work: SampleWork, candidate: Candidate) -> Sampler:
    """Make a candidate's model.

    Raises:
        UserError: A peer is not there, has no such model, or cannot draw so many tokens.
    """
    settings, config = work.settings, work.config
    choose_threads(settings.threads)
    device = choose_device(settings.device)
    if candidate == QUILL:
        model = GPT(config, seed=settings.seed).to(device).eval()
        writer = for_inference(model, choose_dtype(settings.dtype, device), quantize=work.quantize)
        sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, num_samples=work.samples, seed=settings.seed)

        def draw(tokens: int) -> None:
            own = sampling.model_copy(update={"max_new_tokens": tokens})
            for _ in generate_ids(writer, [0], own, vocab_size=config.vocab_size):
                pass

        how = "key-value cache, all samples in one batch"
        number_format = settings.dtype if work.quantize == "none" else work.quantize
        return Sampler(work, Description(how, number_format, model.parameter_count()), draw)
    program: ModuleType
    if candidate.name == NANOGPT:
        assert candidate.checkout is not None
        peer, program = nanogpt.make_model(candidate.checkout, config, 0.0), nanogpt
        dtype = "bfloat16" if device.type == "cuda" else "float32"
        how = "model.py, no cache, one sample after the other"
    else:
        huggingface.check_context(config, work.tokens)
        peer, program = huggingface.make_model(config, 0.0), huggingface
        dtype = "float32"  # what it loads weights as by default
        how = f"{huggingface.describe(peer, config)}, key-value cache, all samples in one batch"
    peer.to(device).eval()
    draw_peer = partial(program.draw, peer, samples=work.samples, temperature=TEMPERATURE, top_k=TOP_K, device=device)
    parameters = sum(parameter.numel() for parameter in peer.parameters())
    return Sampler(work, Description(how, dtype, parameters), lambda tokens: draw_peer(tokens=tokens))
