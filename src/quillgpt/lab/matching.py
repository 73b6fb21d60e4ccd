"""Training the attention of each layer of a student to return what its teacher's attention returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from quillgpt.errors import UserError
from quillgpt.lab.observe import attentions
from quillgpt.model import GPT


def match_layers(
    student: GPT,
    teacher: GPT,
    batch: Callable[[int], Tensor],
    *,
    iterations: int,
    learning_rate: float,
    advance: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train the attention of each layer of the student on the input and output of the teacher's.

    Each layer learns by itself from the teacher's input to that layer, so it sees no error of earlier layers. The
    learning rate falls to zero along a half cosine.

    Args:
        student: The model to train: the teacher's configuration with another kernel. Only its attention changes.
        teacher: The model to imitate, in evaluation mode.
        batch: Returns the tokens (B, T) of an iteration.
        iterations: Number of iterations.
        learning_rate: The learning rate of AdamW at the beginning.
        advance: Called after each iteration.

    Returns:
        The loss of each iteration: squared error divided by the squared teacher's output, the mean over layers.

    Raises:
        UserError: The student's attention overflows.
    """
    parameters = [parameter for attention in attentions(student) for parameter in attention.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    losses = []
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / iterations))
        loss = mismatch(student, teacher, batch(iteration))
        if not loss.isfinite():
            raise UserError(
                f"attention is not finite in iteration {iteration + 1} of matching layers, so it cannot be trained: "
                f"the arguments of {student.config.kernel} are far outside the range where it is close to exp. "
                "Calibrate first, or take a kernel with a longer range (quill lab ranges shows which)"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        advance()
    return losses


def mismatch(student: GPT, teacher: GPT, tokens: Tensor) -> Tensor:
    """Return the relative error of the student's attention, given the teacher's inputs; 0 is no difference."""
    with torch.no_grad(), _recorded(teacher) as recorded:
        teacher(tokens)
    errors = []
    for attention, (x, rotation, expected) in zip(attentions(student), recorded, strict=True):
        output = attention(x, rotation, None)
        errors.append((output - expected).square().sum() / expected.square().sum().clamp(min=1e-30))
    return torch.stack(errors).mean()


@contextmanager
def _recorded(model: GPT) -> Iterator[list[tuple[Tensor, object, Tensor]]]:
    """Record input (B,T,C), rotation and output (B,T,C) of each layer's attention while the block runs."""
    recorded: list[tuple[Tensor, object, Tensor]] = []

    def record(_: object, inputs: tuple[Tensor, object, object], output: Tensor) -> None:
        recorded.append((inputs[0], inputs[1], output))

    hooks = [attention.register_forward_hook(record) for attention in attentions(model)]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
