"""One training iteration of a peer, as its own training script runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""Returns the mean loss of a peer's model, given inputs and targets, both ids (B, T)."""


class PeerStep:
    """One iteration in micro-batches: bfloat16 autocast on a GPU only, gradients clipped at 1, one optimizer step.

    nanoGPT's train.py does so, and transformers' Trainer with `bf16` on a GPU.

    Args:
        model: The peer's model, on its device; compiled or not.
        loss_of: Computes the model's loss.
        optimizer: The peer's optimizer of the model.
        batch_size: Sequences in a micro-batch.
        device: The model's device.
    """

    def __init__(
        self,
        model: Any,
        *,
        loss_of: Loss,
        optimizer: torch.optim.Optimizer,
        batch_size: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._loss_of = loss_of
        self._optimizer = optimizer
        self._batch_size = batch_size
        self._device = device

    def __call__(self, inputs: Tensor, targets: Tensor) -> float:
        """Train on the global batch, wait for the device, and return the loss of the last micro-batch."""
        loss = torch.zeros(())
        self._model.train()
        size = self._batch_size
        micro_batches = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
        for micro_inputs, micro_targets in micro_batches:
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._device.type == "cuda"):
                loss = self._loss_of(self._model, micro_inputs, micro_targets) / len(micro_batches)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
