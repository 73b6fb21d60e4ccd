"""A block of qwen3's architecture as one step of autograd, in few passes over memory, for training on CPUs.

`Block` of gpt.py is the reference: this computes the same but for rounding, and the tests compare values and gradients.
Matrix products are PyTorch's, in the number format of autocast. What lies between two of them is one kernel of
native/kernels.cpp, forward and backward; attention, with its small products, is one kernel as well.

Shapes: those of gpt.py, and N = B T tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from quillgpt.attention.dropout import LEVELS, dropped_levels
from quillgpt.model.gpt import ATTENTION_RESULT, ATTENTION_WEIGHTS, MLP_RESULT, SwiGLU
from quillgpt.native import Dropout, kernels

if TYPE_CHECKING:
    from quillgpt.model.gpt import Block, Rotation


def fused_block(block: Block, x: Tensor, rotation: Rotation, seeds: Tensor | None) -> Tensor:
    """Return what `Block.forward` does in training, (B, T, C).

    Args:
        block: A block of qwen3's architecture without adapters, whose attention has as many keys as queries.
        x: (B, T, C), float32.
        rotation: Cosines and sines, (T, D) each.
        seeds: Of the block's dropout, (sites, B); None: nothing is dropped.
    """
    attention, mlp = block.attention, block.mlp
    assert attention.query_norm is not None
    assert attention.key_norm is not None
    assert isinstance(mlp, SwiGLU)
    result: Tensor = _FusedBlock.apply(  # type: ignore[no-untyped-call]
        x,
        block.attention_norm.weight,
        attention.qkv.weight,
        attention.query_norm.weight,
        attention.key_norm.weight,
        attention.output.weight,
        block.mlp_norm.weight,
        mlp.gate_up.weight,
        mlp.down.weight,
        rotation,
        None if seeds is None else seeds.contiguous(),
        block.dropout if seeds is not None else 0.0,
        block.mlp_norm.eps,
    )
    return result


class _FusedBlock(torch.autograd.Function):
    """Forward and backward pass of a block; the arguments are those of `fused_block`, one by one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        qkv_weight: Tensor,
        query_norm_weight: Tensor,
        key_norm_weight: Tensor,
        output_weight: Tensor,
        mlp_norm_weight: Tensor,
        gate_up_weight: Tensor,
        down_weight: Tensor,
        rotation: Rotation,
        seeds: Tensor | None,
        probability: float,
        eps: float,
    ) -> Tensor:
        B, T, C = x.shape
        N, D, M = B * T, len(query_norm_weight), down_weight.shape[1]
        H = output_weight.shape[1] // D
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
        run = kernels(dtype)
        x = x.contiguous()
        in_weights = torch.stack((query_norm_weight, key_norm_weight))  # (2, D)
        qkv_w, output_w, gate_up_w, down_w = (
            weight.to(dtype) for weight in (qkv_weight, output_weight, gate_up_weight, down_weight)
        )
        of_weights, of_mixed, of_mlp = dropouts(seeds, probability)

        normed, inverses = x.new_empty(N, C, dtype=dtype), x.new_empty(N)
        run.norm(N, C, x, norm_weight, eps, normed, inverses)
        qkv = normed @ qkv_w.t()  # (N, 3 H D)
        heads, head_inverses = x.new_empty(3, B * H, T, D, dtype=dtype), x.new_empty(2, N, H)
        run.split_heads(B, T, H, D, qkv, in_weights, *rotation, eps, 1 / math.sqrt(D), heads, head_inverses)
        mixed, statistics = x.new_empty(N, H * D, dtype=dtype), x.new_empty(2, B, H, T)
        run.attention(B, T, H, D, heads, of_weights, mixed, statistics)
        middle, mlp_normed, mlp_inverses = torch.empty_like(x), torch.empty_like(normed), torch.empty_like(inverses)
        run.add_norm(N, C, T, x, mixed @ output_w.t(), of_mixed, middle, mlp_norm_weight, eps, mlp_normed, mlp_inverses)
        gate_up = mlp_normed @ gate_up_w.t()  # (N, 2 M)
        hidden = x.new_empty(N, M, dtype=dtype)
        run.swiglu(N, M, gate_up, hidden)
        result = torch.empty_like(x)
        run.add_norm(N, C, T, middle, hidden @ down_w.t(), of_mlp, result, None, eps, None, None)

        ctx.run, ctx.sizes, ctx.rotation = run, (B, T, C, H, D, M), rotation
        ctx.dropouts, ctx.seeds = (of_weights, of_mixed, of_mlp), seeds  # the dropouts point to the seeds
        ctx.save_for_backward(
            x, norm_weight, mlp_norm_weight, in_weights, qkv_w, output_w, gate_up_w, down_w, normed, inverses, qkv,
            heads, head_inverses, mixed, statistics, middle, mlp_normed, mlp_inverses, gate_up, hidden,
        )  # fmt: skip
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (
            x, norm_weight, mlp_norm_weight, in_weights, qkv_w, output_w, gate_up_w, down_w, normed, inverses, qkv,
            heads, head_inverses, mixed, statistics, middle, mlp_normed, mlp_inverses, gate_up, hidden,
        ) = ctx.saved_tensors  # fmt: skip
        run, (B, T, C, H, D, M) = ctx.run, ctx.sizes
        of_weights, of_mixed, of_mlp = ctx.dropouts
        N, gradient = B * T, gradient.contiguous()

        d_mlp = torch.empty_like(normed)
        run.add_backward(N, C, T, gradient, of_mlp, d_mlp)
        d_hidden, d_gate_up = d_mlp @ down_w, torch.empty_like(gate_up)
        run.swiglu_backward(N, M, gate_up, d_hidden, d_gate_up)
        d_middle, d_output = torch.empty_like(x), torch.empty_like(normed)
        d_mlp_norm_weight = torch.empty_like(mlp_norm_weight)
        run.norm_backward(
            N, C, T, middle, mlp_norm_weight, mlp_inverses, d_gate_up @ gate_up_w, gradient, of_mixed, d_middle,
            d_output, d_mlp_norm_weight,
        )  # fmt: skip
        d_heads, d_qkv, d_in_weights = torch.empty_like(heads), torch.empty_like(qkv), torch.empty_like(in_weights)
        run.attention_backward(B, T, H, D, heads, of_weights, mixed, statistics, d_output @ output_w, d_heads)
        run.split_heads_backward(
            B, T, H, D, qkv, in_weights, *ctx.rotation, 1 / math.sqrt(D), head_inverses, d_heads, d_qkv, d_in_weights
        )
        d_x, d_norm_weight = torch.empty_like(x), torch.empty_like(norm_weight)
        run.norm_backward(
            N, C, T, x, norm_weight, inverses, d_qkv @ qkv_w, d_middle, Dropout(), d_x, None, d_norm_weight
        )
        of_qkv, of_output, of_gate_up, of_down = (
            (after.t() @ before).float()
            for after, before in ((d_qkv, normed), (d_output, mixed), (d_gate_up, mlp_normed), (d_mlp, hidden))
        )
        d_query_norm_weight, d_key_norm_weight = d_in_weights.unbind()
        return (
            d_x, d_norm_weight, of_qkv, d_query_norm_weight, d_key_norm_weight, of_output, d_mlp_norm_weight,
            of_gate_up, of_down, None, None, None, None,
        )  # fmt: skip


def dropouts(seeds: Tensor | None, probability: float) -> list[Dropout]:
    """Return what is dropped of attention's weights, of its result, and of the MLP's, given the block's seeds."""
    if seeds is None or not probability:
        return [Dropout()] * 3
    dropped = dropped_levels(probability)
    scale = LEVELS / (LEVELS - dropped)
    return [
        Dropout(seeds[site].data_ptr(), dropped, scale) for site in (ATTENTION_WEIGHTS, ATTENTION_RESULT, MLP_RESULT)
    ]
