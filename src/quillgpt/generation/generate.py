"""Generating token by token: prefill the prompt, then decode with a key-value cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from quillgpt.config.schema import Sampling
from quillgpt.generation.samplers import candidates, draw, penalize_repetition, uniforms_of_sample
from quillgpt.model import GPT, KeyValueCache

Window = Literal["half", "exact"]


def generate_ids(model: GPT, prompt: Sequence[int], sampling: Sampling, *, vocab_size: int) -> Iterator[Tensor]:
    """Yield the next token of every sample, step by step, each time (num_samples,) on the CPU.

    When the context is full, window `half` keeps its last block_size/2 tokens and prefills them again, `exact` slides
    by one token and computes the whole context anew for each.

    Args:
        model: In evaluation mode, on its device, in the number format to compute in.
        prompt: Ids before the sample, at least one.
        sampling: How many samples, how long (the caller may stop earlier), and how tokens are chosen.
        vocab_size: Ids from here on have no token and are never chosen.
    """
    device = model.token_embedding.weight.device
    samples, steps = range(sampling.num_samples), sampling.max_new_tokens
    uniforms = torch.stack([uniforms_of_sample(sampling.seed, k, steps) for k in samples], dim=1).to(device)
    context = Context(model, torch.tensor([list(prompt) for _ in samples], device=device), steps, sampling.window)
    seen = torch.zeros(len(samples), vocab_size, dtype=torch.bool, device=device)
    seen[:, [id for id in prompt if id < vocab_size]] = True
    for step in range(steps):
        with torch.inference_mode():
            scores = context.next_scores()[:, :vocab_size].float()
            if sampling.repetition_penalty != 1.0:
                scores = penalize_repetition(scores, seen, sampling.repetition_penalty)
            chosen = draw(*candidates(scores, sampling), uniforms[step])
            seen.scatter_(1, chosen[:, None], True)
            context.append(chosen)
        yield chosen.cpu()


class Context:
    """The tokens so far and the cache of those that the model still sees.

    Args:
        model: The model.
        prompt: Ids (B, T).
        max_new_tokens: Tokens that will be appended at most.
        window: What happens when the context is full.
    """

    def __init__(self, model: GPT, prompt: Tensor, max_new_tokens: int, window: Window) -> None:
        batch_size, self.length = prompt.shape
        self._model = model
        self._window = window
        self._tokens = torch.empty(batch_size, self.length + max_new_tokens, dtype=torch.int64, device=prompt.device)
        self._tokens[:, : self.length] = prompt
        weight = model.token_embedding.weight
        self._cache = KeyValueCache(model.shape, batch_size, device=weight.device, dtype=weight.dtype)
        self._unread = min(self.length, self._cache.capacity)  # last tokens that the cache does not hold yet

    def append(self, tokens: Tensor) -> None:
        """Add one token to every sample, (B,)."""
        self._tokens[:, self.length] = tokens
        self.length += 1
        self._unread += 1

    def next_scores(self) -> Tensor:
        """Return the scores of the next token, (B, V)."""
        if self._cache.length + self._unread > self._cache.capacity:
            kept = self._cache.capacity if self._window == "exact" else max(1, self._cache.capacity // 2)
            self._cache.clear()
            self._unread = kept
        tokens = self._tokens[:, self.length - self._unread : self.length]
        hidden = self._model(tokens, self._cache)
        self._unread = 0
        return self._model.logits(hidden[:, -1])
