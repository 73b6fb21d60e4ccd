"""What lies before and after the blocks, each in one step of autograd, for training on CPUs: embedding and loss.

`GPT` is the reference: this computes the same but for rounding. fused_block.py does so for the blocks.

Shapes: those of gpt.py, and N = B T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from quillgpt.model.gpt import LayerNorm
from quillgpt.model.loss import product_dtype
from quillgpt.native import Dropout, kernels

if TYPE_CHECKING:
    from quillgpt.model.gpt import GPT


def read_rows(weight: Tensor, tokens: Tensor) -> Tensor:
    """Return the rows of an embedding (V, C): of ids (B, T), (B, T, C)."""
    return _ReadRows.apply(weight, tokens)  # type: ignore[no-any-return, no-untyped-call]


def fused_loss(model: GPT, x: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of `GPT.loss_sum`, given the residual stream after the last block.

    Args:
        model: The model.
        x: (B, T, C), float32.
        targets: Ids (B, T).
    """
    norm = model.final_norm
    loss: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, getattr(norm, "bias", None), model.head.weight, targets, norm.eps, isinstance(norm, LayerNorm)
    )
    return loss


class _ReadRows(torch.autograd.Function):
    """An embedding, whose gradient is added up row by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> Tensor:
        ctx.run, ctx.rows = kernels(product_dtype(weight)), len(weight)
        ctx.save_for_backward(tokens.contiguous())
        return F.embedding(tokens, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (tokens,) = ctx.saved_tensors
        C = gradient.shape[-1]
        of_weight = gradient.new_empty(ctx.rows, C)
        ctx.run.embedding_backward(tokens.numel(), C, ctx.rows, tokens, gradient.contiguous(), of_weight)
        return of_weight, None


class _FusedLoss(torch.autograd.Function):
    """The norm, the head's product and the loss; arguments as `fused_loss` has them.

    The forward pass leaves the gradient of the loss in the place of the logits.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor | None,
        head_weight: Tensor,
        targets: Tensor,
        eps: float,
        centred: bool,
    ) -> Tensor:
        (B, T, C), V = x.shape, len(head_weight)
        N, x, dtype = B * T, x.contiguous(), product_dtype(x)
        run, head_w = kernels(dtype), head_weight.to(dtype)
        normed, inverses = x.new_empty(N, C, dtype=dtype), x.new_empty(N)
        means = x.new_empty(N) if centred else None
        run.norm(N, C, x, norm_weight, norm_bias, eps, normed, inverses, means)
        logits, losses = normed @ head_w.t(), x.new_empty(N)
        run.cross_entropy(N, V, logits, targets.contiguous(), losses)
        ctx.run = run
        ctx.save_for_backward(x, norm_weight, norm_bias, head_w, normed, inverses, means, logits)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, norm_weight, norm_bias, head_w, normed, inverses, means, of_logits = ctx.saved_tensors
        N, C = normed.shape
        of_normed = (of_logits @ head_w).mul_(gradient)
        of_head = (of_logits.t() @ normed).float().mul_(gradient)
        of_x, of_norm_weight = torch.empty_like(x), torch.empty_like(norm_weight)
        of_norm_bias = None if norm_bias is None else torch.empty_like(norm_bias)
        ctx.run.norm_backward(
            N, C, 1, x, norm_weight, inverses, means, of_normed, torch.zeros_like(x), Dropout(), of_x, None,
            of_norm_weight, of_norm_bias,
        )  # fmt: skip
        return of_x, of_norm_weight, of_norm_bias, of_head, None, None, None
