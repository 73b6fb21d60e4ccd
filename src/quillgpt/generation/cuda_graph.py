"""Decoding as a CUDA graph: a GPU records one decode step and replays it, instead of launching every kernel again.

Kernel launches, not arithmetic, limit a small model on a big GPU. Shapes: B samples, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quillgpt.console import warn
from quillgpt.device import record_graph, warm_up
from quillgpt.model import GPT, KeyValueCache
from quillgpt.model.cache import OnePositionCache


class CudaGraphDecoder:
    """Decodes the next token of each sample with the same operations on the same memory every time.

    Without a GPU nothing is recorded, and every call computes the step.

    Args:
        model: The model.
        cache: The keys and values of earlier tokens; every call adds one position.
        choose: Chooses one token for each sample: logits (B, V) and random numbers (B,) to ids (B,). Calling it twice
            must return the same.
    """

    def __init__(self, model: GPT, cache: KeyValueCache, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._model, self._cache, self._choose = model, cache, choose
        self._at = OnePositionCache(cache)
        batch_size, device = cache.keys[0].shape[0], cache.keys[0].device
        self._tokens = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(batch_size, device=device)
        self._chosen = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recording = device.type == "cuda"

    def __call__(self, tokens: Tensor, uniforms: Tensor) -> Tensor:
        """Return the next token of each sample (B,), given its last token (B,) and a random number (B,)."""
        self._tokens[:, 0] = tokens
        self._uniforms.copy_(uniforms)
        self._at.position.fill_(self._cache.length)
        if self._graph is None and self._recording:
            self._graph = self._try_to_record()
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()
        self._cache.advance(1)
        return self._chosen.clone()

    def _compute(self) -> None:
        hidden = self._model(self._tokens, self._at)
        self._chosen.copy_(self._choose(self._model.logits(hidden[:, -1]), self._uniforms))

    def _try_to_record(self) -> torch.cuda.CUDAGraph | None:
        """Record the step; go on without a graph if the device or its driver cannot record it."""
        try:
            return self._record()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warn(
                f"the decode step cannot be recorded as a CUDA graph ({reason}); going on without one, which is slower"
            )
            self._recording = False
            return None

    def _record(self) -> torch.cuda.CUDAGraph:
        """Record the step after two warm-up runs, in which libraries set up.

        They write only what the step itself will write.
        """
        warm_up(self._compute, times=2)
        return record_graph(self._compute)
