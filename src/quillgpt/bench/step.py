"""A peer's training iteration, as its own training script runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Any, Tensor, Tensor], Tensor]
"""The mean loss of a peer's model on inputs and targets, both ids (B, T)."""


class PeerStep:
    """One iteration in micro-steps: bfloat16 autocast on a GPU only, gradients clipped at 1, one optimizer step.

    Both peers' training scripts do it so: nanoGPT's train.py, and transformers' Trainer with `bf16` on a GPU.

    Args:
        model: The peer's model, on its device; compiled or not.
        loss_of: Computes its loss.
        optimizer: The peer's optimizer of the model.
        batch_size: Sequences of a micro-step.
        device: Where the model is.
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
        """Train on the global batch and return the loss of its last micro-step, which waits for the device."""
        loss = torch.zeros(())
        self._model.train()
        parts = list(zip(torch.split(inputs, self._batch_size), torch.split(targets, self._batch_size), strict=True))
        for part_inputs, part_targets in parts:
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._device.type == "cuda"):
                loss = self._loss_of(self._model, part_inputs, part_targets) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
