"""Layer by layer, let a student's attention learn to return what its teacher's does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quillgpt.errors import UserError
from quillgpt.lab.observe import attentions
from quillgpt.model import GPT


def match(
    student: GPT,
    teacher: GPT,
    batch: Callable[[int], Tensor],
    *,
    iterations: int,
    learning_rate: float,
    advance: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train every layer's attention of a student on the input and the output of the teacher's.

    Each layer learns by itself: what it reads is the teacher's input of that layer, so no error of an earlier layer
    reaches it. The rate falls to zero along a half cosine.

    Args:
        student: Has the teacher's shape and another kernel; only its attention is changed.
        teacher: In evaluation mode.
        batch: Returns the tokens (B, T) of an iteration.
        iterations: How many.
        learning_rate: AdamW's, at the beginning.
        advance: Called after each iteration.

    Returns:
        The loss of each iteration: squared error over the square of the teacher's output, mean over layers.

    Raises:
        UserError: The student's attention overflows.
    """
    parameters = [each for attention in attentions(student) for each in attention.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    losses = []
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        loss = mismatch(student, teacher, batch(iteration))
        if not loss.isfinite():
            raise UserError(
                f"attention returns numbers that are not finite in iteration {iteration + 1} of matching layers, so "
                f"nothing can be learnt from it: {student.config.kernel} is far outside of where it is near exp. Let "
                "calibration come first, or take a kernel with a longer reach (quill lab ranges shows what is needed)"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        advance()
    return losses


def mismatch(student: GPT, teacher: GPT, tokens: Tensor) -> Tensor:
    """Return how far the student's attention is from the teacher's, given the teacher's inputs; 0: no difference."""
    with torch.no_grad(), _noted(teacher) as noted:
        teacher(tokens)
    parts = []
    for attention, (x, rotation, expected) in zip(attentions(student), noted, strict=True):
        found = attention(x, rotation, None)
        parts.append((found - expected).square().sum() / expected.square().sum().clamp(min=1e-30))
    return torch.stack(parts).mean()


@contextmanager
def _noted(model: GPT) -> Iterator[list[tuple[Tensor, object, Tensor]]]:
    """Note input (B,T,C), rotation and output (B,T,C) of every layer's attention while the block runs."""
    noted: list[tuple[Tensor, object, Tensor]] = []

    def note(_: object, given: tuple[Tensor, object, object], found: Tensor) -> None:
        noted.append((given[0], given[1], found))

    hooks = [attention.register_forward_hook(note) for attention in attentions(model)]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()
