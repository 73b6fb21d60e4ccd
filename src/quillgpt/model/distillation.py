"""Distillation: trained models teach another one (Hinton, Vinyals & Dean 2015, arXiv 1503.02531).

A share of each target is not the token that comes next, but the mean of the probabilities that the teachers give to
every token. These say more than a text: which other words could have stood there, too.

Shapes: B sequences, T tokens of each, N = B T, C model width, V rows of the student's vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from quillgpt.model.cost import FORWARD_SHARE, training_flops_per_token
from quillgpt.model.gpt import GPT
from quillgpt.model.loss import exact_dtype, loss_in_parts, product_dtype


@dataclass(frozen=True)
class Teachers:
    """The models that teach, and how much they count.

    Attributes:
        models: On the student's device, without dropout, with the same tokens as the student.
        share: Share of the targets that are theirs, above 0, at most 1.
    """

    models: tuple[GPT, ...]
    share: float

    @classmethod
    def of(cls, models: Sequence[GPT], share: float) -> Teachers | None:
        """Return these teachers; None without any."""
        return cls(tuple(models), share) if models else None

    def flops_per_token(self) -> float:
        """Return the operations of all teachers for a token of a full context: their forward passes."""
        return FORWARD_SHARE * sum(
            training_flops_per_token(model.config, model.parameter_count(positions=False)) for model in self.models
        )

    def loss_sums(self, student: GPT, tokens: Tensor, targets: Tensor, seeds: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of what a student minimizes, and of the targets' negative log-likelihoods, in nats.

        The logits of all tokens never exist: both are computed in parts, with their gradients.

        Args:
            student: The model that learns.
            tokens: Ids (B, T).
            targets: Ids (B, T): the token after each of `tokens`.
            seeds: Int64 (B,), those of the student's dropout.

        Returns:
            Two scalars, float32; only the first has a gradient.
        """
        with torch.no_grad():
            states = [model(tokens).flatten(0, -2) for model in self.models]
        hidden = student(tokens, seeds=seeds).flatten(0, -2)
        ids = targets.flatten()
        pull = partial(self._pull, states, ids, rows=len(student.head.weight), dtype=product_dtype(hidden))
        return _TaughtLoss.apply(hidden, student.head.weight, ids, pull)  # type: ignore[no-any-return, no-untyped-call]

    def _pull(self, states: Sequence[Tensor], targets: Tensor, part: slice, *, rows: int, dtype: torch.dtype) -> Tensor:
        """Return how far the teachers' targets are from the tokens of a part, times their share: (n, V)."""
        ids, exact = targets[part], exact_dtype(states[0])
        pull = torch.zeros(len(ids), rows, dtype=exact, device=ids.device)
        for model, of_all in zip(self.models, states, strict=True):
            logits = F.linear(of_all[part].to(dtype), model.head.weight.to(dtype))
            probabilities = logits[:, :rows].softmax(-1, dtype=exact)
            pull[:, : probabilities.shape[1]].add_(probabilities, alpha=self.share / len(self.models))
        return pull.scatter_add_(1, ids[:, None], torch.full_like(pull[:, :1], -self.share))


def in_form_of_teacher(model: GPT) -> GPT:
    """Return a model without dropout in the form in which it teaches fastest."""
    # Without dropout, both modes compute the same, and only training computes a block as one step.
    return model.requires_grad_(False).train()


class _TaughtLoss(torch.autograd.Function):
    """The loss of a student, with the gradient that it has in parts."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, pull_of: Any) -> tuple[Tensor, Tensor]:
        for_hidden, for_weight, *_ = ctx.needs_input_grad
        loss, objective, *gradients = loss_in_parts(
            hidden, weight, targets, product_dtype(hidden), for_hidden, for_weight, pull_of
        )
        ctx.dtypes = (hidden.dtype if for_hidden else None, weight.dtype if for_weight else None)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(loss)
        return objective, loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        of_inputs = [
            None if dtype is None else kept.mul_(gradient).to(dtype)
            for kept, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*of_inputs, None, None)
