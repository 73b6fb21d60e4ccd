"""A decode step of a GPT-2 in bfloat16 on a CPU, in few operations.

For one position, starting an operation of PyTorch often takes longer than its arithmetic. So this does without the
views, conversions and calls of modules that model/gpt.py has for several positions. The results are the same, bit for
bit.

Shapes: B sequences, C width of the model, H query heads, G key and value heads, S positions, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.attention import SOFTMAX
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT, MLP, Block, LayerNorm, RMSNorm, softmax_sdpa
from quillgpt.model.inference import PackedLinear

PRODUCTS = ("attention.qkv", "attention.output", "mlp.up", "mlp.down")
"""The linear layers of a block."""


class FewOperations:
    """Computes what `GPT.forward` computes of one position of each sequence; use `decoder`."""

    def __init__(self, model: GPT, blocks: Sequence[Block]) -> None:
        self._model = model
        self._blocks = [BlockInFewOperations(block) for block in blocks]

    def __call__(self, tokens: Tensor, cache: KeyValueCache) -> Tensor:
        """Return the final hidden states (B, 1, C) of tokens (B, 1), which continue the cache."""
        assert self._model.position_embedding is not None
        positions = cache.begin(1)
        x = self._model.token_embedding(tokens).to(self._model.dtype) + self._model.position_embedding.weight[positions]
        x = x.squeeze(1)  # (B, C)
        for block in self._blocks:
            x = block(x, cache)
        cache.advance(1)
        return self._model.final_norm(x)[:, None]  # type: ignore[no-any-return]


class BlockInFewOperations:
    """A block of the model; it shares the weights."""

    def __init__(self, block: Block) -> None:
        attention, mlp = block.attention, block.mlp
        assert isinstance(mlp, MLP)
        self._layer, self._head_dim, self._approximate = attention.layer, attention.head_dim, mlp.approximate
        self._heads = [width // attention.head_dim for width in attention.qkv_widths]  # H, G, G
        self._attention_norm, self._mlp_norm = block.attention_norm, block.mlp_norm
        self._qkv, self._output, self._up, self._down = (block.get_submodule(name) for name in PRODUCTS)

    def __call__(self, x: Tensor, cache: KeyValueCache) -> Tensor:
        """Update the residual stream (B, C)."""
        qkv = bfloat16(self._qkv, norm(x, self._attention_norm)).view(len(x), -1, 1, self._head_dim)
        qkv = qkv.to(cache.attention_dtype or x.dtype)  # (B, H + 2 G, 1, D)
        query, key, value = torch.split(qkv, self._heads, dim=1)
        key, value = cache.extend(self._layer, key, value)  # (B, G, S, D)
        mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=query.shape[1] != key.shape[1])
        x = x + bfloat16(self._output, mixed.reshape(len(x), -1))
        hidden = F.gelu(bfloat16(self._up, norm(x, self._mlp_norm)), approximate=self._approximate)
        return x + bfloat16(self._down, hidden)


def bfloat16(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the product of a packed layer in the number format in which it is computed."""
    assert isinstance(layer, PackedLinear)
    return layer.product(x)


def norm(x: Tensor, layer: LayerNorm | RMSNorm) -> Tensor:
    """Return what a LayerNorm returns, without the calls around it."""
    assert isinstance(layer, LayerNorm)
    return torch.layer_norm(x, layer.weight.shape, layer.weight, layer.bias, layer.eps)


def decoder(model: GPT) -> FewOperations | GPT:
    """Return what computes a decode step of the model: few operations, or the model itself if it is of another kind."""
    if model.config.arch != "gpt2" or model.config.kernel != SOFTMAX:
        return model
    blocks = [block for block in model.blocks if isinstance(block, Block) and has_fast_parts(block)]
    return FewOperations(model, blocks) if len(blocks) == len(model.blocks) else model


def has_fast_parts(block: Block) -> bool:
    """Whether a block has packed layers only and attends by PyTorch's fused operation."""
    packed = all(isinstance(block.get_submodule(name), PackedLinear) for name in PRODUCTS)
    return packed and block.attention.path is softmax_sdpa
