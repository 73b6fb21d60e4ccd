"""Training as a CUDA graph: a GPU records one iteration and replays it, instead of launching every kernel again.

Kernel launches, not arithmetic, limit a small model on a big GPU.
"""

from __future__ import annotations

import torch

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ResolvedSettings
from quillgpt.device import record_graph, warm_up
from quillgpt.errors import DeviceError
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.run import Run
from quillgpt.training.step import StepResult, TrainStep, Votes

WARM_UP_ITERATIONS = 3
"""Iterations that are done before one is recorded: libraries set up, and optimizers make their state."""


def kind_of_step(settings: ResolvedSettings, device: torch.device) -> type[TrainStep]:
    """Return what does the iterations of a run: on a GPU, a recorded step where `cuda_graph` asks for one."""
    return CudaGraphStep if settings.cuda_graph and device.type == "cuda" else TrainStep


def make_step(run: Run) -> TrainStep:
    """Return what does the iterations of a run."""
    kind = kind_of_step(run.settings, run.machine.device)
    step = kind(run.model, run.optimizers, run.batches, run.settings, run.machine, run.average, run.world, run.teachers)
    step.restore(run.state)
    return step


class CudaGraphStep(TrainStep):
    """A `TrainStep` that does the same operations on the same memory every time, and never waits for the device.

    So it cannot look at a loss before the update. Instead it sets a flag on the device where loss or gradient is not
    finite, and from then on no update changes a weight. `synchronize` reads the flag. Without a GPU nothing is
    recorded, and every call computes the iteration.
    """

    def restore(self, state: TrainingState) -> None:
        """Take memory and record anew: after a rollback the optimizers' state is elsewhere."""
        super().restore(state)
        device = self.device
        size = (self.batches.batch_size, self.batches.block_size)
        self._inputs, self._targets = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        self._seeds = self.dropout_seeds(0)
        self._rates = self.optimizers.move_learning_rates_to(device)
        self._iteration = torch.zeros((), dtype=torch.int64, device=device)
        self._failed_iteration = torch.full_like(self._iteration, -1)
        self._loss, self._grad_norm, self._failed_loss, self._failed_norm = (
            torch.zeros((), device=device) for _ in range(4)
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._done = 0

    def __call__(self, iteration: int, lr: float, votes: Votes | None = None) -> StepResult:  # noqa: ARG002
        """Ask for an iteration. What is not finite is raised by `synchronize`; arguments are those of `TrainStep`."""
        self.model.train()
        inputs, targets = self.batch(iteration)
        self._inputs.copy_(inputs)
        self._targets.copy_(targets)
        self._iteration.fill_(iteration)
        self.optimizers.set_learning_rate(lr)
        self.seed(iteration)
        if (seeds := self.dropout_seeds(iteration)) is not None and self._seeds is not None:
            self._seeds.copy_(seeds)
        if self.device.type != "cuda":
            self._compute()
        elif self._done < WARM_UP_ITERATIONS:
            warm_up(self._compute)
        else:
            if self._graph is None:
                self._graph = self._record()
            self._graph.replay()
        self._done += 1
        if self.average is not None:
            self.average.update(self.model, self.settings.within_model(iteration))
        return StepResult(self._loss.clone(), self._grad_norm.clone())

    def synchronize(self) -> None:
        """Wait until all iterations are done.

        Raises:
            NonFiniteError: The loss or gradient of one was not finite; weights are as they were before it.
        """
        failed = int(self._failed_iteration)
        if failed >= 0:
            self._failed_iteration.fill_(-1)
            raise NonFiniteError(failed, float(self._failed_loss), float(self._failed_norm))

    def _compute(self) -> None:
        """Do the iteration that the memory describes; no weight moves from the first one on that was not finite."""
        loss = torch.zeros((), device=self.device)
        for micro_batch in self.micro_batches(self._inputs, self._targets, self._seeds):
            loss += self.forward_backward(*micro_batch)
        grad_norm = self.clip_gradient()
        fails = (self._failed_iteration < 0) & ~(loss + grad_norm).isfinite()
        for kept, new in (
            (self._failed_iteration, self._iteration),
            (self._failed_loss, loss),
            (self._failed_norm, grad_norm),
        ):
            kept.copy_(torch.where(fails, new, kept))
        has_failed = self._failed_iteration >= 0
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.masked_fill_(has_failed, 0.0)
        for rate in self._rates:
            rate.masked_fill_(has_failed, 0.0)
        for optimizer in self.optimizers.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self._loss.copy_(loss)
        self._grad_norm.copy_(grad_norm)

    def _record(self) -> torch.cuda.CUDAGraph:
        try:
            return record_graph(self._compute)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            message = f"the iteration cannot be recorded as a CUDA graph ({reason}); leave --cuda_graph out"
            raise DeviceError(message) from error
