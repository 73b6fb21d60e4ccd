"""A loss or gradient that is not finite: the error that stops the iteration, and where the values went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from quillgpt.data.batches import Window
from quillgpt.distributed.fsdp import drop_gathered
from quillgpt.distributed.shards import own_rows
from quillgpt.training.compilation import uncompiled
from quillgpt.training.run import Run

if TYPE_CHECKING:
    from quillgpt.training.step import TrainStep

EXCERPT_TOKENS = 12
WINDOWS_NAMED = 4


class NonFiniteError(Exception):
    """An iteration's loss or gradient is NaN or infinite; weights and optimizers are as they were before it.

    Args:
        iteration: The iteration, counted from 0.
        loss: Its loss, nats per token.
        grad_norm: The norm of its gradient.
    """

    def __init__(self, iteration: int, loss: float, grad_norm: float) -> None:
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradient is {grad_norm}"
        super().__init__(what)
        self.iteration = iteration


@dataclass(frozen=True)
class Fault:
    """Where a computation stopped being finite.

    Attributes:
        place: The first output, or the first gradient, that was not finite; None where computing the batch again gave
            finite values throughout.
        windows: The windows concerned.
    """

    place: str | None
    windows: list[Window]


def find_fault(step: TrainStep, iteration: int) -> Fault:
    """Compute an iteration's gradient again, uncompiled, and return where the first value that is not finite appears.

    Of several ranks, the first one with such a value counts.
    """
    faults = step.world.gather(find_own_fault(step, iteration))
    return next((fault for fault in faults if fault.place is not None), faults[0])


def find_own_fault(step: TrainStep, iteration: int) -> Fault:
    """Do the work of `find_fault` for this rank's part of the batch."""
    model, windows = step.model, step.batches.windows(iteration)
    weights = step.world.gather(first_not_finite(model.named_parameters()))
    if any(weights):
        return Fault(f"the weight {next(filter(None, weights))}", windows)
    windows = windows[step.rows]
    model.train()
    first, order, faults = 0, dict[str, None](), list[Fault]()
    try:
        with step.objective.accumulating():
            micro_batches = step.micro_batches(*step.batch(iteration), step.dropout_seeds(iteration))
            for number, (inputs, targets, seeds) in enumerate(micro_batches):
                step.seed(iteration, number)
                with uncompiled(model), watch(model) as seen:
                    loss = step.forward_backward(inputs, targets, seeds)
                micro_windows = windows[first : first + len(inputs)]
                first, order = first + len(inputs), seen.order
                if seen.module is not None:
                    spoiled_windows = [micro_windows[row] for row in seen.rows] or micro_windows
                    faults.append(Fault(f"the output of {seen.module}", spoiled_windows))
                elif not bool(loss.isfinite()):
                    faults.append(Fault("the loss", micro_windows))
        if faults:
            return faults[0]
        gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
        spoiled = {name.rpartition(".")[0] for name, gradient in gradients if not is_finite(gradient)}
    finally:
        drop_gathered(model)
        model.zero_grad(set_to_none=True)
    # The backward pass comes from the end: the last module of the forward pass is where it began. A loss in parts uses
    # the weight of the head without calling it.
    for module in ("head", *reversed(order)):
        if module in spoiled:
            return Fault(f"the gradient of {module}", windows)
    return Fault(None, windows)


@dataclass
class Sighting:
    """The first module whose output was not finite, and the rows of the batch in which."""

    module: str | None = None
    rows: list[int] = field(default_factory=list)
    order: dict[str, None] = field(default_factory=dict)


@contextmanager
def watch(model: nn.Module) -> Iterator[Sighting]:
    """Note the first output that is not finite while the block runs, and the order in which modules compute."""
    seen = Sighting()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:  # noqa: ARG001
            seen.order.setdefault(name)  # again where activations are computed again for the backward pass
            if seen.module is None and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                seen.module = name
                seen.rows = (~output.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor with a value that is not finite among those that this rank holds."""
    return next((name for name, tensor in named if not is_finite(tensor)), None)


def is_finite(tensor: Tensor) -> bool:
    """Whether all values of a tensor that this rank holds are finite."""
    return bool(own_rows(tensor).isfinite().all())


def describe_windows(run: Run, windows: Sequence[Window]) -> str:
    """Say where windows begin in their split, and how the text of the first one begins."""
    source = windows[0].source
    text = run.texts[source]
    split = "the training split" + ("" if source == 0 and run.mixture.is_single else f" of {text.name}")
    windows = [window for window in windows if window.source == source]
    named = ", ".join(f"{window.offset:,}" for window in windows[:WINDOWS_NAMED])
    more = f" and {len(windows) - WINDOWS_NAMED} more" if len(windows) > WINDOWS_NAMED else ""
    excerpt = text.train[windows[0].offset : windows[0].offset + EXCERPT_TOKENS].tolist()
    return f"windows at token {named}{more} of {split}, the first beginning with {text.tokenizer.decode(excerpt)!r}"
