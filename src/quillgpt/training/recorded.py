"""An iteration that a GPU records once as a graph and repeats: launches, not arithmetic, limit small models there."""

from __future__ import annotations

import torch
from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.errors import DeviceError
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.step import NonFiniteError, TrainStep, seed_iteration

UNRECORDED = 3
"""Iterations that are done before one is recorded: libraries set up, and optimizers make their state."""


class RecordedStep(TrainStep):
    """A `TrainStep` that does the same operations on the same memory every time, and never waits for the device.

    So it cannot look at a loss before the update. Instead a flag on the device is set where loss or gradient is not
    finite, and from there on no update changes a weight; `settle` reads the flag. Without a GPU nothing is recorded,
    and each call computes the iteration.
    """

    def restore(self, state: TrainingState) -> None:
        """Take memory and record anew: after a rollback the optimizers' state is elsewhere."""
        super().restore(state)
        device, settings = self._machine.device, self.settings
        size = (settings.sequences_per_iteration, settings.block_size)
        self._inputs, self._targets = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        self._rates = self._optimizers.keep_rates_on(device)
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        self._failed_iteration = torch.full_like(self._iteration, -1)
        self._loss, self._failed_loss, self._failed_norm = (torch.zeros((), device=device) for _ in range(3))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = 0

    def __call__(self, iteration: int, factor: float = 1.0) -> Tensor:
        """Ask for an iteration and return its loss, nats per token, on the device, where it is when that is done.

        Arguments are those of `TrainStep`; what is not finite is raised by `settle`.
        """
        self._model.train()
        inputs, targets = self.batch(iteration)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._iteration.fill_(iteration)
        self._optimizers.set_learning_rate(learning_rate(iteration, self.settings) * factor)
        seed_iteration(self.settings.seed, iteration)
        if self._machine.device.type != "cuda":
            self._compute()
        elif self._done < UNRECORDED:
            self._compute_aside()
        else:
            if self._graph is None:
                self._graph = self._record()
            self._graph.replay()
        self._done += 1
        if self._average is not None:
            self._average.follow(self._model, iteration)
        return self._loss.clone()

    def settle(self) -> None:
        """Wait for all iterations that were asked for.

        Raises:
            NonFiniteError: The loss or gradient of one was not finite; weights are as they were before it.
        """
        failed = int(self._failed_iteration)
        if failed >= 0:
            self._failed_iteration.fill_(-1)
            raise NonFiniteError(failed, float(self._failed_loss), float(self._failed_norm))

    def _compute(self) -> None:
        """Do the iteration that the memory describes; a weight stays where something was not finite, now or before."""
        loss = self._add_gradients(self._inputs, self._targets)
        norm = self._clip()
        fails = (self._failed_iteration < 0) & ~(loss + norm).isfinite()
        for kept, new in (
            (self._failed_iteration, self._iteration),
            (self._failed_loss, loss),
            (self._failed_norm, norm),
        ):
            kept.copy_(torch.where(fails, new, kept))
        spoiled = self._failed_iteration >= 0
        for parameter in self._model.parameters():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(spoiled, 0.0)
        for rate in self._rates:
            rate.masked_fill_(spoiled, 0.0)
        for optimizer in self._optimizers.optimizers:
            optimizer.step()
        self._model.zero_grad(set_to_none=True)
        self._loss.copy_(loss)

    def _compute_aside(self) -> None:
        """Do the iteration on another stream, as what is recorded later must have been done before."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self._compute()
        here.wait_stream(aside)

    def _record(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._compute()
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            message = f"the iteration cannot be recorded as a CUDA graph ({reason}); leave --cuda_graph out"
            raise DeviceError(message) from error
        return graph
