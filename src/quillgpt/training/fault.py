"""Finding where the values of an iteration stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from quillgpt.device import autocast
from quillgpt.training.compilation import uncompiled
from quillgpt.training.setup import Run
from quillgpt.training.step import seed_iteration

EXCERPT_TOKENS = 12
WINDOWS_NAMED = 4


@dataclass(frozen=True)
class Fault:
    """Where a computation stopped being finite.

    Attributes:
        place: The first output, or the first gradient, that was not finite; None where computing the batch again gave
            finite values throughout.
        windows: Starts of the windows concerned, in the training split.
    """

    place: str | None
    windows: list[int]


def find_fault(run: Run, iteration: int) -> Fault:
    """Compute an iteration's batch again, uncompiled, and note where the first value that is not finite appears."""
    model, step = run.model, run.step
    starts = step.starts(iteration).tolist()
    if (spoiled := first_not_finite(model.named_parameters())) is not None:
        return Fault(f"the weight {spoiled}", starts)
    seed_iteration(run.settings.seed, iteration)
    model.train()
    first = 0
    order: list[str] = []
    for inputs, targets in step.parts(*step.batch(iteration)):
        windows = starts[first : first + len(inputs)]
        first += len(inputs)
        with uncompiled(model), watch(model) as seen, autocast(run.machine.device, run.machine.dtype):
            loss = model.loss_sum(inputs, targets) / len(starts)
        order = seen.order
        if seen.module is not None:
            return Fault(f"the output of {seen.module}", [windows[row] for row in seen.rows] or windows)
        if not bool(loss.isfinite()):
            return Fault("the loss", windows)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    spoiled_gradients = {name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())}
    model.zero_grad(set_to_none=True)
    # The backward pass comes from the end: the last module of the forward pass is where it began.
    for module in reversed(order):
        if any(name.rpartition(".")[0] == module for name in spoiled_gradients):
            return Fault(f"the gradient of {module}", starts)
    return Fault(None, starts)


@dataclass
class Sighting:
    """The first module whose output was not finite, and the rows of the batch in which."""

    module: str | None = None
    rows: list[int] = field(default_factory=list)
    order: list[str] = field(default_factory=list)


@contextmanager
def watch(model: nn.Module) -> Iterator[Sighting]:
    """Note the first output that is not finite while the block runs, and the order in which modules compute."""
    seen = Sighting()

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: object, output: object) -> None:  # noqa: ARG001
            seen.order.append(name)
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
    """Return the name of the first tensor with a value that is not finite."""
    return next((name for name, tensor in named if not bool(tensor.isfinite().all())), None)


def describe_windows(run: Run, windows: Sequence[int]) -> str:
    """Say where windows start in the training split, with the beginning of the first one's text.

    Those of a replayed split count on from its end.
    """
    end = len(run.dataset.train)
    tokens, split = run.dataset.train, "the training split"
    if run.replayed is not None and windows[0] >= end:
        tokens, split = run.replayed.train, f"the training split of {run.replayed.name}"
        windows = [start - end for start in windows]
    named = ", ".join(f"{start:,}" for start in windows[:WINDOWS_NAMED])
    more = f" and {len(windows) - WINDOWS_NAMED} more" if len(windows) > WINDOWS_NAMED else ""
    excerpt = run.dataset.tokenizer.decode(tokens[windows[0] : windows[0] + EXCERPT_TOKENS].tolist())
    return f"windows at token {named}{more} of {split}, the first beginning with {excerpt!r}"
