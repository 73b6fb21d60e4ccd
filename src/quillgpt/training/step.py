"""One iteration: the global batch in micro-batches, one gradient, one update."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import TrainSettings
from quillgpt.console import warn
from quillgpt.data.batches import Starts, Tokens, TrainingWindows, gather, items_of_two
from quillgpt.device import autocast, to_device
from quillgpt.model import GPT
from quillgpt.model.kernels import mean_range_excess
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.choices import Machine
from quillgpt.training.compilation import compile_model, leave_uncompiled


class NonFiniteError(Exception):
    """An iteration's loss or gradient is NaN or infinite; weights and optimizers are as they were before it.

    Args:
        iteration: The iteration, counted from 0.
        loss: Its loss, nats per token.
        gradient_norm: The norm of its gradient.
    """

    def __init__(self, iteration: int, loss: float, gradient_norm: float) -> None:
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {gradient_norm}"
        super().__init__(what)
        self.iteration = iteration


class TrainStep:
    """Runs iterations; what iteration i does depends on the weights, the settings and i only.

    Args:
        model: The model, on its device.
        optimizers: Updates its parameters.
        tokens: The training split.
        settings: The run's settings, automatic choices made.
        machine: Device and number format.
        average: Follows the weights, where an average of them is wanted.
        replayed: The training split of `replay_dataset`, where there is one.

    Attributes:
        settings: The run's settings; what is computed does not follow a change, the learning rate does.
        compiled: Whether the compiled model is used; False from the first iteration on where compiling fails.
        scaler: Scales float16 gradients; passes other formats on.
        overflows: Iterations whose float16 gradient overflowed; the scaler left their updates out.
    """

    def __init__(
        self,
        model: GPT,
        optimizers: OptimizerSet,
        tokens: Tokens,
        settings: TrainSettings,
        machine: Machine,
        average: WeightAverage | None = None,
        *,
        replayed: Tokens | None = None,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._tokens = tokens
        self.settings = settings
        self._machine = machine
        self._windows = TrainingWindows(len(tokens), settings.block_size, settings.seed)
        self._replayed = replayed
        if replayed is not None:
            self._replayed_windows = TrainingWindows(len(replayed), settings.block_size, settings.seed)
        self.compiled = bool(settings.compile)
        self._compiled_once = False
        if self.compiled:
            compile_model(model)
        self._average = average
        self.restore(TrainingState())

    def __call__(self, iteration: int, factor: float = 1.0) -> Tensor:
        """Do an iteration and return its loss, nats per token, on the device.

        Args:
            iteration: Its number, counted from 0.
            factor: What its learning rate is multiplied by.

        Raises:
            NonFiniteError: Its loss or gradient is not finite; nothing has been updated.
        """
        self._model.train()
        inputs, targets = self.batch(iteration)
        loss = self._compute_gradient(iteration, inputs, targets)
        norm = self._clip()
        self._check_finite(iteration, loss, norm)
        scale_before = self.scaler.get_scale()
        self._optimizers.set_learning_rate(learning_rate(iteration, self.settings) * factor)
        self._optimizers.step(self.scaler)
        self.overflows += self.scaler.get_scale() < scale_before
        if self._average is not None:
            self._average.follow(self._model, iteration)
        return loss

    def settle(self) -> None:
        """Wait for what has been asked for; raise what was found on the way, which here is raised at once."""

    def restore(self, state: TrainingState) -> None:
        """Go back or forward to what float16's scaler was in a state."""
        self.scaler = torch.amp.GradScaler(self._machine.device.type, enabled=self._machine.dtype == torch.float16)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.overflows = state.overflows

    def starts(self, iteration: int) -> Starts:
        """Return where the windows of an iteration start; those of the replayed split count on from the first's end."""
        settings, batch = self.settings, self.settings.sequences_per_iteration
        if self._replayed is None:
            return self._windows.starts(iteration * batch, batch)
        new, old = items_of_two(iteration * batch, batch, settings.replay)
        replayed = self._replayed_windows.starts(old.start, len(old)) + len(self._tokens)
        return np.concatenate([self._windows.starts(new.start, len(new)), replayed])

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of an iteration, on the device, each (sequences, block_size)."""
        starts, end = self.starts(iteration), len(self._tokens)
        inputs, targets = gather(self._tokens, starts[starts < end], self.settings.block_size)
        if self._replayed is not None:
            old = gather(self._replayed, starts[starts >= end] - end, self.settings.block_size)
            inputs, targets = torch.cat([inputs, old[0]]), torch.cat([targets, old[1]])
        return to_device(inputs, self._machine.device), to_device(targets, self._machine.device)

    def parts(self, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Return a batch in the parts that are computed at once."""
        at_once = self.settings.micro_batch_size
        size = len(inputs) if at_once == "auto" else at_once
        return zip(torch.split(inputs, size), torch.split(targets, size), strict=True)

    def _compute_gradient(self, iteration: int, inputs: Tensor, targets: Tensor) -> Tensor:
        """Leave the gradient in the parameters and return the loss; go on uncompiled where compiling fails."""
        seed_iteration(self.settings.seed, iteration)
        try:
            loss = self._add_gradients(inputs, targets)
        except Exception as error:  # a compiler can fail in any way, but only before it has worked once
            if not self.compiled or self._compiled_once:
                raise
            reason = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
            warn(f"torch.compile failed ({reason}); going on without it, as --compile=False would")
            self.compiled = False
            leave_uncompiled(self._model)
            self._model.zero_grad(set_to_none=True)
            return self._compute_gradient(iteration, inputs, targets)
        self._compiled_once = self.compiled
        return loss

    def _clip(self) -> Tensor:
        """Bound the gradient, and return the norm that it had."""
        for optimizer in self._optimizers.optimizers:
            self.scaler.unscale_(optimizer)
        parameters = list(self._model.parameters())
        norm = torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
        if self.settings.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.grad_clip, norm)
        return norm

    def _check_finite(self, iteration: int, loss: Tensor, norm: Tensor) -> None:
        """Raise NonFiniteError where an update would spoil the weights; an overflow of float16 is the scaler's."""
        judged = loss if self.scaler.is_enabled() else loss + norm
        if not bool(judged.isfinite()):
            self._model.zero_grad(set_to_none=True)
            raise NonFiniteError(iteration, float(loss), float(norm))

    def _add_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradient of the mean loss over the global batch, part by part; return that loss."""
        loss = torch.zeros((), device=self._machine.device)
        for part_inputs, part_targets in self.parts(inputs, targets):
            with autocast(self._machine.device, self._machine.dtype):
                part_loss = self._model.loss_sum(part_inputs, part_targets) / targets.numel()
            objective = part_loss
            if self.settings.range_penalty:
                objective = objective + self.settings.range_penalty * mean_range_excess(self._model) / len(inputs)
            self.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
            loss += part_loss.detach()
        return loss


def seed_iteration(seed: int, iteration: int) -> None:
    """Make an iteration's random numbers (dropout) a function of seed and iteration: resuming needs no state."""
    torch.manual_seed(int(np.random.SeedSequence([seed, iteration]).generate_state(1, np.uint64)[0]))
