"""The loss of a large vocabulary in parts, each with its gradient, so that the logits of all tokens never exist.

The logits of 4,096 tokens over GPT-2's 50,304 rows are 824 MB in float32, and the loss with its gradient needs them
several times. Here the tokens are cut into parts. The forward pass turns a part's logits into the gradient of its loss,
in the same memory, and multiplies them at once; the backward pass only scales the results. This is the idea of Liger
Kernel's fused linear cross entropy (Hsu et al. 2024, arXiv 2410.10989).

Shapes: N tokens, C model width, V rows of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TOKENS_AT_ONCE = 2048
"""Tokens of a part. The gradient of the weight is read and written once for each part, whatever the vocabulary."""

WEIGHT_ROWS_AT_ONCE = 8192
"""Rows of the weight whose gradient is computed at once: it is added up in float32 while it is near the cores."""

LOGITS_IN_CACHE = 1 << 19
"""Logits that a thread turns into probabilities at once: a few megabytes, which fit a core's cache."""

MANY_LOGITS = 1 << 27
"""Logits of a micro-batch from which parts are faster; they save memory, too."""


def is_in_parts(tokens: int, vocab_size: int, *, device_type: str, dtype: torch.dtype) -> bool:
    """Whether the loss of so many tokens is computed in parts.

    float16 is left out: its scaler scales the whole gradient, and the sums of a part's gradient could overflow before.

    Args:
        tokens: Tokens of a micro-batch.
        vocab_size: V.
        device_type: As PyTorch names it; only CPUs were measured.
        dtype: Number format of the products.
    """
    return device_type == "cpu" and dtype != torch.float16 and tokens * vocab_size >= MANY_LOGITS


def product_dtype(x: Tensor) -> torch.dtype:
    """Return the number format in which a linear layer multiplies a tensor: autocast's, where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def linear_cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of the negative log-likelihoods of targets, in nats, computed in parts with its gradients.

    The logits have the number format of other products here (autocast's), everything else is float32. The gradient of
    the weight is the sum over parts in float32. A second backward pass through the same graph is an error.

    Args:
        hidden: Final hidden states (..., C).
        weight: Of the head, (V, C).
        targets: Ids (...).

    Returns:
        Scalar, float32; float64 for hidden states in float64.
    """
    wanted = torch.is_grad_enabled()
    loss, _, _ = _loss_and_gradients(
        hidden.flatten(0, -2),
        weight,
        targets.flatten(),
        product_dtype(hidden),
        wanted and hidden.requires_grad,
        wanted and weight.requires_grad,
    )
    return loss  # type: ignore[no-any-return]


def token_losses(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of every target, in nats, computed in parts and without a gradient.

    Args:
        logits_of: The head: from hidden states (n, C) to logits (n, V).
        hidden: Final hidden states (..., C).
        targets: Ids (...).

    Returns:
        Of the shape of `targets`, float32.
    """
    states, ids = hidden.flatten(0, -2), targets.flatten()
    parts = zip(torch.split(states, TOKENS_AT_ONCE), torch.split(ids, TOKENS_AT_ONCE), strict=True)
    with torch.no_grad():
        return torch.cat([_losses(logits_of(own), wanted, torch.float32) for own, wanted in parts]).view(targets.shape)


def _losses(logits: Tensor, targets: Tensor, exact: torch.dtype, *, leave_gradient: bool = False) -> Tensor:
    """Return the losses (n,) of logits (n, V).

    Each thread has rows of its own. If every operation on a few rows were divided between the threads, they would wait
    for each other a thousand times in an iteration, and on a busy machine each time until all have had their turn.

    Args:
        logits: The logits.
        targets: Ids (n,).
        exact: Number format of the probabilities and losses.
        leave_gradient: Replace the logits by the gradient of the sum of these losses.
    """
    of_rows = partial(_losses_of_rows, exact=exact, leave_gradient=leave_gradient)
    threads = torch.get_num_threads() if logits.device.type == "cpu" else 1
    if threads == 1 or logits.numel() <= LOGITS_IN_CACHE:
        return of_rows(logits, targets)
    rows = math.ceil(len(logits) / threads)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return torch.cat(list(pool.map(of_rows, torch.split(logits, rows), torch.split(targets, rows))))
    finally:
        torch.set_num_threads(threads)  # for threads that begin later


@torch.no_grad()
def _losses_of_rows(logits: Tensor, targets: Tensor, *, exact: torch.dtype, leave_gradient: bool) -> Tensor:
    """Do the work of `_losses` in this thread, a few rows at a time."""
    rows = max(1, LOGITS_IN_CACHE // logits.shape[-1])
    losses = []
    for piece, ids in zip(torch.split(logits, rows), torch.split(targets[:, None], rows), strict=True):
        log_probabilities = F.log_softmax(piece, dim=-1, dtype=exact)
        likelihoods = log_probabilities.gather(1, ids)  # (rows, 1), as logarithms
        losses.append(-likelihoods[:, 0])
        if leave_gradient:
            gradient = log_probabilities.exp_()
            piece.copy_(gradient.scatter_(1, ids, likelihoods.expm1()))
    return torch.cat(losses)


@torch.no_grad()
def loss_in_parts(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    for_hidden: bool,
    for_weight: bool,
    pull_of: Callable[[slice], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return loss, objective and gradients of hidden states (N, C), part by part.

    Args:
        hidden: Final hidden states (N, C).
        weight: Of the head, (V, C).
        targets: Ids (N,).
        dtype: Number format of the products.
        for_hidden: Whether the gradient of `hidden` is wanted.
        for_weight: Whether that of `weight` is.
        pull_of: Returns, for the tokens of a part, the number (n, V), float32, by which each logit is wanted to be
            higher than the targets alone want it: the objective is the loss minus the logits times these numbers. None:
            the objective is the loss.

    Returns:
        The sum of the targets' negative log-likelihoods, in nats; the objective; and its gradients, (N, C) and (V, C),
        without rows where they are not wanted.
    """
    exact = exact_dtype(hidden)
    gradient_of_hidden = torch.empty_like(hidden, dtype=exact) if for_hidden else hidden.new_empty(0, dtype=exact)
    gradient_of_weight = torch.empty_like(weight, dtype=exact) if for_weight else weight.new_empty(0, dtype=exact)
    loss, pulled = (torch.zeros((), dtype=exact, device=hidden.device) for _ in range(2))
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        memory = hidden.new_empty(min(len(hidden), TOKENS_AT_ONCE), len(weight))
        for first in range(0, len(hidden), TOKENS_AT_ONCE):
            part = slice(first, min(first + TOKENS_AT_ONCE, len(hidden)))
            states, ids = hidden[part], targets[part]
            logits = torch.mm(states, weight.T, out=memory[: len(states)])
            pull = None if pull_of is None else pull_of(part)
            if pull is not None:
                pulled += torch.dot(logits.flatten().to(pull.dtype), pull.flatten())
            loss += _losses(logits, ids, exact, leave_gradient=for_hidden or for_weight).sum()
            if pull is not None:
                logits -= pull
            if for_hidden:
                gradient_of_hidden[part] = logits @ weight
            if for_weight:
                for row in range(0, len(weight), WEIGHT_ROWS_AT_ONCE):
                    rows = slice(row, row + WEIGHT_ROWS_AT_ONCE)
                    product = logits[:, rows].T @ states
                    if first == 0:
                        gradient_of_weight[rows] = product
                    else:
                        gradient_of_weight[rows] += product
    return loss, loss - pulled, gradient_of_hidden, gradient_of_weight


@torch.library.custom_op("quill::linear_cross_entropy", mutates_args=())
def _loss_and_gradients(
    hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, for_hidden: bool, for_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of `linear_cross_entropy_sum`, and its gradients of (N, C) and (V, C); without rows if unwanted.

    Autograd, and a compiler, take it as a single step: compiled code for the loop would depend on the number of tokens.
    """
    loss, _, of_hidden, of_weight = loss_in_parts(hidden, weight, targets, dtype, for_hidden, for_weight)
    return loss, of_hidden, of_weight


@_loss_and_gradients.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,  # noqa: ARG001
    dtype: torch.dtype,  # noqa: ARG001
    for_hidden: bool,
    for_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    exact = exact_dtype(hidden)
    return (
        hidden.new_empty((), dtype=exact),
        torch.empty_like(hidden, dtype=exact) if for_hidden else hidden.new_empty(0, dtype=exact),
        torch.empty_like(weight, dtype=exact) if for_weight else weight.new_empty(0, dtype=exact),
    )


def exact_dtype(hidden: Tensor) -> torch.dtype:
    """Return the number format of losses and probabilities, given hidden states."""
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, *_, for_hidden, for_weight = inputs
    ctx.dtypes = (hidden.dtype if for_hidden else None, weight.dtype if for_weight else None)
    ctx.set_materialize_grads(False)  # else zeros as large as the weight
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, gradient: Tensor, *_: object) -> tuple[Tensor | None, ...]:
    # In place: a copy of the weight's gradient would need as much memory once more.
    of_inputs = [
        None if dtype is None else kept.mul_(gradient).to(dtype)
        for kept, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    ]
    return (*of_inputs, None, None, None, None)


_loss_and_gradients.register_autograd(_scale_gradients, setup_context=_keep_gradients)
