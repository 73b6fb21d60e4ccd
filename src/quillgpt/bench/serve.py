"""What a server adds to sampling: how long its first token takes, and its speed in turn with `quill sample`."""

from __future__ import annotations

import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import requests
import torch

from quillgpt.api import Model, load
from quillgpt.bench.results import number, rates
from quillgpt.bench.rounds import Round, run_rounds
from quillgpt.bench.worker import Worker
from quillgpt.config.schema import Sampling, ServeSettings
from quillgpt.device import device_description
from quillgpt.errors import ConfigError, UserError

ANSWER_SECONDS = 600
COMPUTED_BY = ("device", "dtype", "threads", "quantize")
"""The settings of `quill serve` that are the model's."""


@dataclass(frozen=True)
class ServeResult:
    """The numbers of a server; `--json` prints them under these names.

    Attributes:
        first_token_ms: Milliseconds from a request to its first event, the median over the requests.
        first_token_ms_requests: Those of each request.
        tokens_per_second: The speed of a stream, from the request to its end, the median over the rounds.
        tokens_per_second_rounds: That of each round.
        sample_tokens_per_second: The speed of `quill sample` on the same prompts.
        sample_tokens_per_second_rounds: That of each round.
        times_as_long: The time of a stream divided by that of `quill sample`, the median over the rounds.
    """

    first_token_ms: float
    first_token_ms_requests: list[float]
    tokens_per_second: float
    tokens_per_second_rounds: list[float]
    sample_tokens_per_second: float
    sample_tokens_per_second_rounds: list[float]
    times_as_long: float

    def rows(self) -> dict[str, str]:
        """Return the numbers in words, by their labels."""
        longest = max(self.first_token_ms_requests)
        return {
            "first token": f"{number(self.first_token_ms)} ms (the longest of "
            f"{len(self.first_token_ms_requests)} requests: {number(longest)} ms)",
            "server": rates(self.tokens_per_second, self.tokens_per_second_rounds, "tokens/s"),
            "quill sample": rates(self.sample_tokens_per_second, self.sample_tokens_per_second_rounds, "tokens/s"),
            "compared": f"a stream takes {self.times_as_long:.3f} times as long",
        }


class Library:
    """A model that samples as `quill sample` does, in a process of its own."""

    def __init__(self, name: str, settings: ServeSettings) -> None:
        self.model: Model = load(
            name,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            quantize=settings.quantize,
        )
        self.model.writer.eval()

    def about(self) -> dict[str, object]:
        """Return what the measurement reports of the model and the machine."""
        model = self.model
        return {
            "machine": device_description(model.device),
            "threads": torch.get_num_threads(),
            "parameters": model.parameters,
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantize": model.quantize,
        }

    def sizes(self) -> tuple[int, int]:
        """Return the context and the size of the vocabulary."""
        return self.model.config.block_size, self.model.tokenizer.vocab_size

    def rate(self, prompt: list[int], tokens: int, seed: int) -> float:
        """Write tokens after a prompt, and return how many a second."""
        sampling = Sampling(max_new_tokens=tokens, num_samples=1, seed=seed)
        start = time.perf_counter()
        [sample] = self.model.draw(("", prompt), sampling, on_text=lambda _text: None)
        return len(sample.ids) / (time.perf_counter() - start)


@contextmanager
def server(model: str, settings: ServeSettings) -> Iterator[str]:
    """Run `quill serve` as a process of its own; yields its address.

    Raises:
        UserError: It ended before it could be asked.
    """
    flags = [f"--{name}={value}" for name in COMPUTED_BY if (value := getattr(settings, name)) is not None]
    command = [sys.executable, "-m", "quillgpt", "serve", model, "--port=0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8") as process:
        try:
            assert process.stderr is not None
            said = ""
            for line in process.stderr:
                said += line
                if match := re.search(r"http://[\d.]+:\d+", line):
                    yield match[0]
                    return
            raise UserError(f"quill serve {model} ended: {said.strip()}")
        finally:
            process.terminate()


def events(url: str, **body: Any) -> Iterator[str]:
    """Yield the events of a stream, as they come.

    Raises:
        UserError: The server refuses the request.
    """
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=ANSWER_SECONDS) as answer:
        if answer.status_code != requests.codes.ok:
            raise UserError(f"the server refused a request: {answer.text}")
        for line in answer.iter_lines():
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").decode()


def first_token_seconds(url: str, prompt: list[int]) -> float:
    """Return the seconds from a request to its first event."""
    start = time.perf_counter()
    answer = events(url, prompt=prompt, max_tokens=2, seed=1)
    next(answer)
    seconds = time.perf_counter() - start
    list(answer)
    return seconds


def stream_rate(url: str, prompt: list[int], tokens: int, seed: int) -> float:
    """Let the server write tokens after a prompt, and return how many a second."""
    start = time.perf_counter()
    *_, usage, _end = events(url, prompt=prompt, max_tokens=tokens, seed=seed)
    seconds = time.perf_counter() - start
    return float(json.loads(usage)["usage"]["completion_tokens"]) / seconds


def bench_serving(
    name: str, settings: ServeSettings, *, prompt_tokens: int, tokens: int, first_tokens: int, rounds: int
) -> tuple[dict[str, object], ServeResult]:
    """Measure a server of a model on this machine, in turn with `quill sample`.

    Args:
        name: The model, as for `quill serve`.
        settings: Device, number format, threads and quantization of both processes.
        prompt_tokens: Tokens of each prompt; no two are alike.
        tokens: New tokens of each stream.
        first_tokens: Requests whose first token is timed.
        rounds: Counted rounds.

    Returns:
        The conditions of the measurement, and the result.

    Raises:
        ConfigError: Prompt and new tokens do not fit into the model's context.
    """
    with Worker(Library, name, settings) as library:
        context, vocabulary = library.ask(Library.sizes)
        if prompt_tokens + tokens > context:
            raise ConfigError(
                f"a prompt of {prompt_tokens:,} tokens and {tokens:,} new ones are more than the model's context of "
                f"{context:,}; give fewer"
            )
        about = library.ask(Library.about)
        draw = random.Random(0)
        prompts = [[draw.randrange(vocabulary) for _ in range(prompt_tokens)] for _ in range(first_tokens + 1)]
        with server(name, settings) as url:
            firsts = [first_token_seconds(url, prompt) for prompt in prompts][1:]  # the first is a warm-up
            candidates: dict[str, Round] = {
                "serve": partial(stream_rate, url, prompts[0], tokens, 1),
                "sample": partial(library.ask, Library.rate, prompts[0], tokens, 1),
            }
            throughputs = run_rounds(candidates, rounds)
    served, sampled = throughputs["serve"], throughputs["sample"]
    result = ServeResult(
        first_token_ms=1e3 * statistics.median(firsts),
        first_token_ms_requests=[1e3 * seconds for seconds in firsts],
        tokens_per_second=served.median,
        tokens_per_second_rounds=served.rates,
        sample_tokens_per_second=sampled.median,
        sample_tokens_per_second_rounds=sampled.rates,
        times_as_long=1 / sampled.ratio,
    )
    return about | {"prompt_tokens": prompt_tokens, "new_tokens": tokens}, result
