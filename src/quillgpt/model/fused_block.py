"""A block as one step of autograd, in few passes over memory, for training on CPUs.

`Block` of gpt.py is the reference: this computes the same but for rounding, and the tests compare values and gradients.
Matrix products are PyTorch's, in the number format of autocast. What lies between two of them is one kernel of
native/kernels.cpp, forward and backward; attention, with its small products, is one kernel as well. The architectures
differ in two places: qwen3 normalises and rotates its heads, and gates its MLP, where gpt2 has GELU.

Shapes: those of gpt.py, and N = B T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from quillgpt.attention.dropout import LEVELS, dropped_levels
from quillgpt.model.gpt import ATTENTION_RESULT, ATTENTION_WEIGHTS, MLP, MLP_RESULT, LayerNorm, Linear, RMSNorm
from quillgpt.native import Dropout, Strides, kernels

if TYPE_CHECKING:
    from quillgpt.model.gpt import Block, Rotation


def fused_block(block: Block, x: Tensor, rotation: Rotation | None, seeds: Tensor | None) -> Tensor:
    """Return what `Block.forward` does in training, (B, T, C).

    Args:
        block: A block with softmax attention and without adapters.
        x: (B, T, C), float32.
        rotation: Cosines and sines, (T, D) each; None: heads are neither normalised nor rotated.
        seeds: Of the block's dropout, (sites, B); None: nothing is dropped.
    """
    attention, mlp = block.attention, block.mlp
    queries, keys, _ = attention.qkv_widths
    constants = _Constants(
        H=queries // attention.head_dim,
        G=keys // attention.head_dim,
        D=attention.head_dim,
        eps=block.mlp_norm.eps,
        centred=isinstance(block.mlp_norm, LayerNorm),
        gelu=mlp.approximate if isinstance(mlp, MLP) else None,
        rotation=rotation,
        seeds=None if seeds is None else seeds.contiguous(),
        probability=block.dropout,
    )
    result: Tensor = _FusedBlock.apply(  # type: ignore[no-untyped-call]
        x,
        constants,
        *_parameters(block.attention_norm),
        *_parameters(attention.qkv),
        None if attention.query_norm is None else attention.query_norm.weight,
        None if attention.key_norm is None else attention.key_norm.weight,
        *_parameters(attention.output),
        *_parameters(block.mlp_norm),
        *_parameters(mlp.up if isinstance(mlp, MLP) else mlp.gate_up),
        *_parameters(mlp.down),
    )
    return result


def _parameters(layer: Linear | LayerNorm | RMSNorm) -> tuple[Tensor, Tensor | None]:
    return layer.weight, None if isinstance(layer, RMSNorm) else layer.bias


@dataclass(frozen=True)
class _Constants:
    """What a block depends on besides its input and its parameters.

    Attributes:
        H: Query heads.
        G: Key and value heads.
        D: Width of a head.
        eps: Of all norms.
        centred: Both norms of the block are LayerNorm; else RMSNorm.
        gelu: The form of GELU, as PyTorch names it; None: SwiGLU.
        rotation: Cosines and sines, (T, D) each, of queries and keys that are normalised; None: they are neither.
        seeds: Of the block's dropout, (sites, B); None: nothing is dropped.
        probability: Of dropping a value.
    """

    H: int
    G: int
    D: int
    eps: float
    centred: bool
    gelu: str | None
    rotation: Rotation | None
    seeds: Tensor | None
    probability: float

    def order(self, length: int) -> tuple[Strides, float]:
        """Return where the heads are that attention reads, and what it still multiplies queries by."""
        width = (self.H + 2 * self.G) * self.D
        if self.rotation is None:
            return Strides(length * width, self.D, width), 1 / math.sqrt(self.D)
        return Strides(length * width, length * self.D, self.D), 1.0

    def dropouts(self) -> list[Dropout]:
        """Return what is dropped of attention's weights, of its result, and of the MLP's; they point to the seeds."""
        if self.seeds is None or not self.probability:
            return [Dropout()] * 3
        dropped = dropped_levels(self.probability)
        scale = LEVELS / (LEVELS - dropped)
        sites = (ATTENTION_WEIGHTS, ATTENTION_RESULT, MLP_RESULT)
        return [Dropout(self.seeds[site].data_ptr(), dropped, scale) for site in sites]


class _FusedBlock(torch.autograd.Function):
    """Forward and backward pass of a block."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        constants: _Constants,
        norm_weight: Tensor,
        norm_bias: Tensor | None,
        qkv_weight: Tensor,
        qkv_bias: Tensor | None,
        query_norm_weight: Tensor | None,
        key_norm_weight: Tensor | None,
        output_weight: Tensor,
        output_bias: Tensor | None,
        mlp_norm_weight: Tensor,
        mlp_norm_bias: Tensor | None,
        up_weight: Tensor,
        up_bias: Tensor | None,
        down_weight: Tensor,
        down_bias: Tensor | None,
    ) -> Tensor:
        H, G, D, eps, rotation = constants.H, constants.G, constants.D, constants.eps, constants.rotation
        (B, T, C), M = x.shape, down_weight.shape[1]
        N = B * T
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else torch.float32
        run = kernels(dtype)
        x = x.contiguous()
        qkv_w, output_w, up_w, down_w = (
            weight.to(dtype) for weight in (qkv_weight, output_weight, up_weight, down_weight)
        )
        qkv_b, output_b, up_b, down_b = (
            None if bias is None else bias.to(dtype) for bias in (qkv_bias, output_bias, up_bias, down_bias)
        )
        of_weights, of_mixed, of_mlp = constants.dropouts()

        normed, inverses = x.new_empty(N, C, dtype=dtype), x.new_empty(N)
        means = torch.empty_like(inverses) if constants.centred else None
        run.norm(N, C, x, norm_weight, norm_bias, eps, normed, inverses, means)
        qkv = F.linear(normed, qkv_w, qkv_b)  # (N, (H + 2 G) D)
        heads, head_norms, head_inverses = qkv, None, None
        if query_norm_weight is not None and key_norm_weight is not None and rotation is not None:
            heads, head_norms = torch.empty_like(qkv), torch.stack((query_norm_weight, key_norm_weight))
            head_inverses = x.new_empty(N, H + G)
            run.split_heads(B, T, H, G, D, qkv, head_norms, *rotation, eps, 1 / math.sqrt(D), heads, head_inverses)
        mixed, statistics = x.new_empty(N, H * D, dtype=dtype), x.new_empty(2, B, H, T)
        run.attention(B, T, H, G, D, heads, *constants.order(T), of_weights, mixed, statistics)
        middle, mlp_normed, mlp_inverses = torch.empty_like(x), torch.empty_like(normed), torch.empty_like(inverses)
        mlp_means = None if means is None else torch.empty_like(means)
        run.add_norm(
            N, C, T, x, F.linear(mixed, output_w, output_b), of_mixed, middle, mlp_norm_weight, mlp_norm_bias, eps,
            mlp_normed, mlp_inverses, mlp_means,
        )  # fmt: skip
        up = F.linear(mlp_normed, up_w, up_b)  # (N, M), or gate and up (N, 2 M)
        hidden = x.new_empty(N, M, dtype=dtype)
        if constants.gelu is None:
            run.swiglu(N, M, up, hidden)
        else:
            run.gelu(N, M, constants.gelu == "tanh", up, hidden)  # up becomes GELU's derivative
        result = torch.empty_like(x)
        run.add_norm(
            N, C, T, middle, F.linear(hidden, down_w, down_b), of_mlp, result, None, None, eps, None, None, None
        )

        ctx.run, ctx.constants, ctx.sizes = run, constants, (B, T, C, M)
        ctx.biased = (norm_bias is not None, qkv_bias is not None)
        ctx.save_for_backward(
            x, norm_weight, head_norms, mlp_norm_weight, qkv_w, output_w, up_w, down_w, normed, inverses, means, qkv,
            heads, head_inverses, mixed, statistics, middle, mlp_normed, mlp_inverses, mlp_means, up, hidden,
        )  # fmt: skip
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (
            x, norm_weight, head_norms, mlp_norm_weight, qkv_w, output_w, up_w, down_w, normed, inverses, means, qkv,
            heads, head_inverses, mixed, statistics, middle, mlp_normed, mlp_inverses, mlp_means, up, hidden,
        ) = ctx.saved_tensors  # fmt: skip
        run, constants, (B, T, C, M), (norms_biased, biased) = ctx.run, ctx.constants, ctx.sizes, ctx.biased
        H, G, D = constants.H, constants.G, constants.D
        of_weights, of_mixed, of_mlp = constants.dropouts()
        N, gradient = B * T, gradient.contiguous()

        d_mlp = torch.empty_like(normed)
        run.add_backward(N, C, T, gradient, of_mlp, d_mlp)
        d_hidden = d_mlp @ down_w
        if constants.gelu is None:
            d_up = torch.empty_like(up)
            run.swiglu_backward(N, M, up, d_hidden, d_up)
        else:
            d_up = d_hidden * up
        d_middle, d_output = torch.empty_like(x), torch.empty_like(normed)
        d_mlp_norm_weight = torch.empty_like(mlp_norm_weight)
        d_mlp_norm_bias = torch.empty_like(mlp_norm_weight) if norms_biased else None
        run.norm_backward(
            N, C, T, middle, mlp_norm_weight, mlp_inverses, mlp_means, d_up @ up_w, gradient, of_mixed, d_middle,
            d_output, d_mlp_norm_weight, d_mlp_norm_bias,
        )  # fmt: skip
        d_heads = torch.empty_like(heads)
        run.attention_backward(
            B, T, H, G, D, heads, *constants.order(T), of_weights, mixed, statistics, d_output @ output_w, d_heads
        )
        d_qkv, d_query_norm_weight, d_key_norm_weight = d_heads, None, None
        if head_norms is not None:
            d_qkv, d_head_norms = torch.empty_like(qkv), torch.empty_like(head_norms)
            run.split_heads_backward(
                B, T, H, G, D, qkv, head_norms, *constants.rotation, 1 / math.sqrt(D), head_inverses, d_heads, d_qkv,
                d_head_norms,
            )  # fmt: skip
            d_query_norm_weight, d_key_norm_weight = d_head_norms.unbind()
        d_x, d_norm_weight = torch.empty_like(x), torch.empty_like(norm_weight)
        d_norm_bias = torch.empty_like(norm_weight) if norms_biased else None
        run.norm_backward(
            N, C, T, x, norm_weight, inverses, means, d_qkv @ qkv_w, d_middle, Dropout(), d_x, None, d_norm_weight,
            d_norm_bias,
        )  # fmt: skip
        of_qkv, of_output, of_up, of_down = (
            ((after.t() @ before).float(), after.sum(0).float() if biased else None)
            for after, before in ((d_qkv, normed), (d_output, mixed), (d_up, mlp_normed), (d_mlp, hidden))
        )
        return (
            d_x, None, d_norm_weight, d_norm_bias, *of_qkv, d_query_norm_weight, d_key_norm_weight, *of_output,
            d_mlp_norm_weight, d_mlp_norm_bias, *of_up, *of_down,
        )  # fmt: skip
