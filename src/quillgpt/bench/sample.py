"""Sampling throughput of a preset's model shape, with random weights: prefill and the choice of tokens included."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from quillgpt.bench.nanogpt import make_model
from quillgpt.bench.rounds import Candidate, Result, run_rounds
from quillgpt.config.schema import Sampling, TrainSettings
from quillgpt.device import choose_device, choose_dtype, choose_threads
from quillgpt.generation import generate_ids
from quillgpt.model import GPT
from quillgpt.training.setup import model_shape

TEMPERATURE, TOP_K = 0.8, 200


def bench_sampling(
    settings: TrainSettings, *, vocab_size: int, tokens: int, samples: int, rounds: int, nanogpt: Path | None
) -> list[Result]:
    """Measure generated tokens per second, all samples together.

    Args:
        settings: The preset whose model is timed; device, dtype and threads.
        vocab_size: Rows of the vocabulary, where the settings leave it to a tokenizer.
        tokens: New tokens of a sample.
        samples: Samples side by side.
        rounds: Counted rounds.
        nanogpt: A nanoGPT checkout to run in turn with Quill.
    """
    choose_threads(settings.threads)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    shape = model_shape(settings, settings.vocab_size or vocab_size)
    model = GPT(shape, seed=settings.seed).to(device=device, dtype=dtype).eval()
    sampling = Sampling(
        temperature=TEMPERATURE, top_k=TOP_K, num_samples=samples, max_new_tokens=tokens, seed=settings.seed
    )

    def quill() -> float:
        start = time.perf_counter()
        steps = generate_ids(model, [0], sampling, vocab_size=shape.vocab_size)
        count = sum(len(step) for step in steps)
        return count / (time.perf_counter() - start)

    candidates: dict[str, Candidate] = {"quill": quill}
    if nanogpt is not None:
        peer = make_model(nanogpt, shape, 0.0).to(device).eval()

        def generate() -> float:
            start = time.perf_counter()
            with torch.no_grad():
                for _ in range(samples):  # nanoGPT's sample.py draws one sample after the other
                    prompt = torch.zeros(1, 1, dtype=torch.int64, device=device)
                    peer.generate(prompt, tokens, temperature=TEMPERATURE, top_k=TOP_K)
            return samples * tokens / (time.perf_counter() - start)

        candidates["nanogpt"] = generate
    return run_rounds(candidates, rounds)
