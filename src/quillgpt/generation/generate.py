"""Generating token by token: prefill the prompt, then decode with a key-value cache.

Shapes: B samples, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

import torch
from torch import Tensor

from quillgpt.config.schema import Sampling
from quillgpt.device import memory
from quillgpt.errors import CheckpointError
from quillgpt.generation.cuda_graph import CudaGraphDecoder
from quillgpt.generation.decoding_threads import DecodingThreads
from quillgpt.generation.samplers import candidates, draw_tokens, penalize_repetition, uniforms_of_samples
from quillgpt.model import GPT, KeyValueCache, decode_step

Window = Literal["half", "exact"]


MOST_AT_ONCE: Final = 256
"""The most samples that are computed together; more are hardly faster."""

USABLE_SHARE: Final = 0.5
"""The share of the free memory that samples may take."""


def samples_at_once(model: GPT, prompt: Sequence[int], sampling: Sampling) -> int:
    """Return how many samples to compute together: all of them, or as many as the free memory has room for."""
    available = memory(model.device)
    most = min(sampling.num_samples, MOST_AT_ONCE)
    if available is None:
        return most
    return max(1, min(most, int(USABLE_SHARE * available.free) // bytes_of_sample(model, len(prompt), sampling)))


def bytes_of_sample(model: GPT, prompt_length: int, sampling: Sampling) -> int:
    """Estimate the memory of one sample: its cache, its logits, and the activations of its longest forward pass."""
    config = model.config
    capacity = min(config.block_size, prompt_length + sampling.max_new_tokens)
    at_once = capacity if sampling.window == "exact" else max(min(prompt_length, capacity), capacity // 2)
    cache = 2 * config.n_layer * config.n_kv_head * capacity * config.head_dim * model.cache_dtype.itemsize
    hidden = 4 * at_once * (4 * config.n_embd + config.qkv_dim + 2 * config.mlp_dim + config.n_head * at_once)
    return cache + hidden + BYTES_PER_LOGIT * config.vocab_size


BYTES_PER_LOGIT: Final = 40
"""Memory for each token of the vocabulary: its logit, its sorted logit and id, its probability, the cumulative sum."""


def generate_ids(
    model: GPT,
    prompt: Sequence[int] | Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    vocab_size: int,
    samples: Sequence[int] | None = None,
    bias: Tensor | None = None,
    on_logits: Callable[[Tensor, Tensor], object] | None = None,
    last_prompt: LastPrompt | None = None,
) -> Iterator[Tensor]:
    """Yield the next token id of every sample, step by step, as a tensor (B,) on the CPU.

    When the context is full, window `half` keeps the last block_size/2 tokens and prefills them again. Window `exact`
    slides by one token and recomputes the whole context for each new token. Memory grows with the context, not with
    the number of tokens.

    Args:
        model: The model, in evaluation mode, on its device and in the number format to compute in.
        prompt: Ids of the prompt, at least one; or those of one prompt for each sample, all of the same length.
        sampling: How many samples, how many tokens at most, and how tokens are chosen. The caller may stop earlier.
        vocab_size: Size of the tokenizer's vocabulary. Ids from here on are padding and are never chosen.
        samples: Numbers of the samples to draw; None draws all.
        bias: Added to the logits before a token is chosen, (vocab_size,).
        on_logits: Called at each step with the logits as the model has them, padding too, in float32, and the ids that
            were chosen, (B,).
        last_prompt: Where the model's last prompt is kept.

    Raises:
        CheckpointError: The logits are NaN.
    """
    device = model.device
    samples = range(sampling.num_samples) if samples is None else samples
    uniforms = uniforms_of_samples(sampling.seed, samples, device)
    penalty = sampling.repetition_penalty
    prompts = torch.tensor(prompt, device=device).expand(len(samples), -1)
    seen = torch.zeros(len(samples), model.config.vocab_size if penalty != 1.0 else 0, dtype=torch.bool, device=device)
    if penalty != 1.0:
        seen.scatter_(1, prompts, True)
    counting = bool(sampling.presence_penalty or sampling.frequency_penalty)
    counts = torch.zeros(len(samples), vocab_size if counting else 0, device=device)

    def choose(logits: Tensor, uniforms: Tensor) -> Tensor:
        given = logits.float()
        logits = given[:, :vocab_size]
        if penalty != 1.0:
            logits = penalize_repetition(logits, seen[:, :vocab_size], penalty)
        if counting:
            logits = logits - sampling.frequency_penalty * counts - sampling.presence_penalty * (counts > 0)
        if bias is not None:
            logits = logits + bias
        chosen = draw_tokens(*candidates(logits, sampling), uniforms)
        if on_logits is not None:
            on_logits(given, chosen)
        return chosen

    visible = prompts[:, -model.config.block_size :]
    steps = sampling.max_new_tokens
    one_graph = device.type == "cuda" and on_logits is None  # a graph replays no function of Python
    generator = TokenGenerator(
        model, visible, steps, sampling.window, choose, one_graph=one_graph, last_prompt=last_prompt
    )
    for _ in range(steps):
        with torch.inference_mode():
            chosen = generator.next_tokens(next(uniforms))
            ids = chosen.cpu()
            if int(ids.min()) < 0:
                raise CheckpointError("the model's logits are NaN: a weight is NaN, or too large")
            if penalty != 1.0:
                seen.scatter_(1, chosen[:, None], True)
            if counting:
                counts.scatter_add_(1, chosen[:, None], torch.ones_like(counts[:, :1]))
        yield ids


class LastPrompt:
    """What a model has computed of the prompt that came last, for when the same comes again.

    It has to be the whole prompt, and as many samples. A shorter pass over what is new would round differently, and a
    seed would no longer give the text that it gives elsewhere.
    """

    def __init__(self) -> None:
        self._prompt: Tensor | None = None
        self._cached: list[Tensor] = []
        self._logits: Tensor | None = None

    def recall(self, prompt: Tensor, cache: KeyValueCache) -> Tensor | None:
        """Fill an empty cache, and return the logits of the next token (B, V); None for another prompt (B, T)."""
        if self._prompt is None or not torch.equal(self._prompt, prompt):
            return None
        cache.fill_with(self._cached)
        return self._logits

    def keep(self, prompt: Tensor, cache: KeyValueCache, logits: Tensor) -> None:
        """Keep what `cache` and logits (B, V) have after a prompt (B, T)."""
        self._prompt, self._cached, self._logits = prompt.clone(), cache.copy_of_filled(), logits.clone()


class TokenGenerator:
    """Generates one token for every sample at a time; holds the tokens in the context and their key-value cache.

    Args:
        model: The model.
        prompt: Ids (B, T).
        max_new_tokens: The most tokens that will be appended.
        window: What happens when the context is full.
        choose: Chooses one token for each sample: logits (B, V) and random numbers (B,) to ids (B,).
        one_graph: Decode on fixed memory; on a GPU as a CUDA graph that is recorded at the first token.
        last_prompt: Where the model's last prompt is kept.
    """

    def __init__(
        self,
        model: GPT,
        prompt: Tensor,
        max_new_tokens: int,
        window: Window,
        choose: Callable[[Tensor, Tensor], Tensor],
        *,
        one_graph: bool = False,
        last_prompt: LastPrompt | None = None,
    ) -> None:
        batch_size, length = prompt.shape
        self._model = model
        self._window = window
        self._choose = choose
        self._last_prompt = last_prompt
        capacity = min(model.config.block_size, length + max_new_tokens)
        self._cache = KeyValueCache(
            model.config, batch_size, device=model.device, dtype=model.cache_dtype, capacity=capacity
        )
        self._unread = self.length = min(length, capacity)  # the last tokens, which are not in the cache yet
        # Twice as long as the context, so that tokens are moved to the front only once in `capacity` steps.
        self._tokens = torch.empty(batch_size, 2 * capacity, dtype=torch.int64, device=prompt.device)
        self._tokens[:, : self.length] = prompt[:, length - self.length :]
        self._decoder = CudaGraphDecoder(model, self._cache, choose) if one_graph else None
        self._decode = decode_step(model, self._cache)
        self._threads = DecodingThreads() if model.device.type == "cpu" else None

    def next_tokens(self, uniforms: Tensor) -> Tensor:
        """Choose one token for every sample and append it: random numbers (B,) to ids (B,)."""
        if self._decoder is not None and self._unread == 1 and 0 < self._cache.length < self._cache.capacity:
            chosen = self._decoder(self._tokens[:, self.length - 1], uniforms)
        else:
            chosen = self._choose(self._next_logits() if self._cache.length else self._first_logits(), uniforms)
        if self.length == self._tokens.shape[1]:
            self.length = self._cache.capacity
            self._tokens[:, : self.length] = self._tokens[:, -self.length :]
        self._tokens[:, self.length] = chosen
        self.length += 1
        self._unread = 1
        return chosen

    def _first_logits(self) -> Tensor:
        if self._last_prompt is None:
            return self._next_logits()
        prompt = self._tokens[:, : self.length]
        logits = self._last_prompt.recall(prompt, self._cache)
        if logits is None:
            logits = self._next_logits()
            self._last_prompt.keep(prompt, self._cache, logits)
        return logits

    def _next_logits(self) -> Tensor:
        if self._cache.length + self._unread > self._cache.capacity:
            kept = self._cache.capacity if self._window == "exact" else max(1, self._cache.capacity // 2)
            self._cache.clear()
            self._unread = kept
        tokens, cached = self._tokens[:, self.length - self._unread : self.length], self._cache.length

        def step() -> Tensor:
            self._cache.length = cached  # it may be computed several times
            if tokens.shape[1] == 1:
                return self._decode(tokens)
            return self._model.logits(self._model(tokens, self._cache)[:, -1])

        # How threads divide a long pass, and so its rounding, depends on their number.
        return self._threads.compute(step) if self._threads is not None and self._unread == 1 else step()
