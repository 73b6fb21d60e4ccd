"""One iteration: the global batch in micro-batches, one gradient, one update."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from quillgpt.config.schema import TrainSettings
from quillgpt.console import warn
from quillgpt.data.batches import Tokens, TrainingWindows, gather
from quillgpt.device import autocast, to_device
from quillgpt.model import GPT
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.choices import Machine


class TrainStep:
    """Runs iterations; what iteration i does depends on the weights, the settings and i only.

    Args:
        model: The model, on its device.
        optimizers: Updates its parameters.
        tokens: The training split.
        settings: The run's settings, automatic choices made.
        machine: Device and number format.
    """

    def __init__(
        self, model: GPT, optimizers: OptimizerSet, tokens: Tokens, settings: TrainSettings, machine: Machine
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._tokens = tokens
        self._settings = settings
        self._machine = machine
        self._windows = TrainingWindows(len(tokens), settings.block_size, settings.seed)
        self._loss_sum: Callable[[Tensor, Tensor], Tensor] = model.loss_sum
        if settings.compile:
            self._loss_sum = torch.compile(model.loss_sum)
        self.scaler = torch.amp.GradScaler(machine.device.type, enabled=machine.dtype == torch.float16)

    def __call__(self, iteration: int) -> Tensor:
        """Do iteration `iteration` (counted from 0) and return its loss, nats per token, on the device."""
        settings = self._settings
        seed_iteration(settings.seed, iteration)
        batch = settings.sequences_per_iteration
        inputs, targets = gather(self._tokens, self._windows.starts(iteration * batch, batch), settings.block_size)
        inputs, targets = to_device(inputs, self._machine.device), to_device(targets, self._machine.device)
        self._model.train()
        loss = torch.zeros((), device=self._machine.device)
        for first in range(0, batch, settings.micro_batch_size or batch):
            part = slice(first, first + (settings.micro_batch_size or batch))
            loss += self._backward(inputs[part], targets[part], targets.numel())
        if settings.grad_clip:
            for optimizer in self._optimizers.optimizers:
                self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.grad_clip)
        rate = learning_rate(iteration, settings)
        self._optimizers.step(rate / settings.learning_rate if settings.learning_rate else 0.0, self.scaler)
        return loss

    def _backward(self, inputs: Tensor, targets: Tensor, total: int) -> Tensor:
        """Add a micro-batch's share of the gradient of the mean over `total` targets; return its share of the loss."""
        try:
            loss = self._forward(inputs, targets) / total
        except Exception as error:
            if self._loss_sum == self._model.loss_sum or not _comes_from_compiler(error):
                raise
            warn(f"torch.compile failed ({type(error).__name__}); going on without it, as --compile=False would")
            self._loss_sum = self._model.loss_sum
            loss = self._forward(inputs, targets) / total
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(self._machine.device, self._machine.dtype):
            return self._loss_sum(inputs, targets)


def seed_iteration(seed: int, iteration: int) -> None:
    """Make an iteration's random numbers (dropout) a function of seed and iteration: resuming needs no state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, iteration]).generate_state(1, np.uint64)[0]))


def _comes_from_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
