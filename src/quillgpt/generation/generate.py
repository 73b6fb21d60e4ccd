"""Generating token by token: prefill the prompt, then decode with a key-value cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from quillgpt.config.schema import Sampling
from quillgpt.errors import CheckpointError
from quillgpt.generation.samplers import candidates, draw, penalize_repetition, uniforms_of_sample
from quillgpt.generation.step import RecordedStep
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

    Raises:
        CheckpointError: A score is NaN.
    """
    device = model.device
    samples, steps = range(sampling.num_samples), sampling.max_new_tokens
    uniforms = torch.stack([uniforms_of_sample(sampling.seed, k, steps) for k in samples], dim=1).to(device)
    penalty = sampling.repetition_penalty
    seen = torch.zeros(len(samples), vocab_size, dtype=torch.bool, device=device)
    seen[:, [id for id in prompt if id < vocab_size]] = True

    def choose(scores: Tensor, uniforms: Tensor) -> Tensor:
        scores = scores[:, :vocab_size].float()
        if penalty != 1.0:
            scores = penalize_repetition(scores, seen, penalty)
        return draw(*candidates(scores, sampling), uniforms)

    prompts = torch.tensor([list(prompt) for _ in samples], device=device)
    context = Context(model, prompts, steps, sampling.window, choose, one_graph=device.type == "cuda")
    for step in range(steps):
        with torch.inference_mode():
            chosen = context.next_tokens(uniforms[step])
            ids = chosen.cpu()
            if int(ids.min()) < 0:
                raise CheckpointError("the model's scores are no numbers (NaN): a weight is NaN, or too large")
            if penalty != 1.0:
                seen.scatter_(1, chosen[:, None], True)
        yield ids


class Context:
    """The tokens so far and the cache of those that the model still sees.

    Args:
        model: The model.
        prompt: Ids (B, T).
        max_new_tokens: Tokens that will be appended at most.
        window: What happens when the context is full.
        choose: Takes one token for each sample: scores (B, V) and random numbers (B,) to ids (B,).
        one_graph: Decode on fixed memory; on a GPU as one graph that is recorded at the first token.
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
    ) -> None:
        batch_size, self.length = prompt.shape
        self._model = model
        self._window = window
        self._tokens = torch.empty(batch_size, self.length + max_new_tokens, dtype=torch.int64, device=prompt.device)
        self._tokens[:, : self.length] = prompt
        self._choose = choose
        capacity = min(model.shape.block_size, self.length + max_new_tokens)
        self._cache = KeyValueCache(
            model.shape, batch_size, device=model.device, dtype=model.cache_dtype, capacity=capacity
        )
        self._unread = min(self.length, capacity)  # last tokens that the cache does not hold yet
        self._step = RecordedStep(model, self._cache, choose) if one_graph else None

    def next_tokens(self, uniforms: Tensor) -> Tensor:
        """Choose one token for every sample and append it; random numbers (B,) to ids (B,)."""
        if self._step is not None and self._unread == 1 and 0 < self._cache.length < self._cache.capacity:
            chosen = self._step(self._tokens[:, self.length - 1], uniforms)
        else:
            chosen = self._choose(self._scores(), uniforms)
        self._tokens[:, self.length] = chosen
        self.length += 1
        self._unread = 1
        return chosen

    def _scores(self) -> Tensor:
        if self._cache.length + self._unread > self._cache.capacity:
            kept = self._cache.capacity if self._window == "exact" else max(1, self._cache.capacity // 2)
            self._cache.clear()
            self._unread = kept
        tokens = self._tokens[:, self.length - self._unread : self.length]
        hidden = self._model(tokens, self._cache)
        return self._model.logits(hidden[:, -1])
