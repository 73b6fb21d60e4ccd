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

    Attributes:
        compiled: Whether the compiled model is used; False from the first iteration on where compiling fails.
        scaler: Scales float16 gradients; passes other formats on.
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
        self.compiled = bool(settings.compile)
        self._compiled_once = False
        self._loss_sum: Callable[[Tensor, Tensor], Tensor] = model.loss_sum
        if self.compiled:
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
        try:
            loss = self._add_gradients(inputs, targets)
        except Exception as error:  # a compiler can fail in any way, but only before it has worked once
            if not self.compiled or self._compiled_once:
                raise
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            warn(f"torch.compile failed ({reason}); going on without it, as --compile=False would")
            self.compiled, self._loss_sum = False, self._model.loss_sum
            self._model.zero_grad(set_to_none=True)
            seed_iteration(settings.seed, iteration)
            loss = self._add_gradients(inputs, targets)
        self._compiled_once = self.compiled
        if settings.grad_clip:
            for optimizer in self._optimizers.optimizers:
                self.scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), settings.grad_clip)
        rate = learning_rate(iteration, settings)
        self._optimizers.step(rate / settings.learning_rate if settings.learning_rate else 0.0, self.scaler)
        return loss

    def _add_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of the mean loss over the global batch, part by part; return that loss."""
        loss = torch.zeros((), device=self._machine.device)
        size = self._settings.micro_batch_size or len(inputs)
        for part_inputs, part_targets in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
            with autocast(self._machine.device, self._machine.dtype):
                part_loss = self._loss_sum(part_inputs, part_targets) / targets.numel()
            self.scaler.scale(part_loss).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        return loss


def seed_iteration(seed: int, iteration: int) -> None:
    """Make an iteration's random numbers (dropout) a function of seed and iteration: resuming needs no state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, iteration]).generate_state(1, np.uint64)[0]))
