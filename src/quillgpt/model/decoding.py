"""A decode step, which computes one position of each sequence, without the operations of model/gpt.py.

For one position, starting an operation of PyTorch often takes longer than its arithmetic. With weights in float32 or of
8 bits, a kernel computes the whole step (native_step.py). A GPT-2 in bfloat16 is computed here in few operations of
PyTorch: without the views, conversions and calls of modules that several positions need. The results are the same, bit
for bit.

Shapes: B sequences, C width of the model, H query heads, G key and value heads, S positions, D width of a head,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT, MLP, Block, LayerNorm, RMSNorm, softmax_sdpa
from quillgpt.model.inference import PackedLinear
from quillgpt.model.native_step import NativeStep, kernel_of

PRODUCTS = ("attention.qkv", "attention.output", "mlp.up", "mlp.down")
"""The linear layers of a block of GPT-2."""

DecodeStep = Callable[[Tensor], Tensor]
"""Computes the next position of a cache: its tokens (B, 1) to the logits of what follows, (B, V)."""


def decode_step(model: GPT, cache: KeyValueCache) -> DecodeStep:
    """Return what computes the decode steps of a model with a cache, the fastest way that there is.

    Every call advances the cache by one position. The weights may change between calls, but must stay where they are.
    """
    if (kernel := kernel_of(model, cache)) is not None:
        return NativeStep(model, cache, kernel)
    blocks = [block for block in model.blocks if isinstance(block, Block) and has_packed_parts(block)]
    if model.config.arch == "gpt2" and len(blocks) == len(model.blocks):
        return FewOperations(model, blocks, cache)
    return lambda tokens: model.logits(model(tokens, cache)[:, -1])


class FewOperations:
    """The decode steps of a GPT-2 whose layers are packed."""

    def __init__(self, model: GPT, blocks: Sequence[Block], cache: KeyValueCache) -> None:
        self._model, self._cache = model, cache
        self._blocks = [BlockInFewOperations(block) for block in blocks]

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, V) after tokens (B, 1)."""
        assert self._model.position_embedding is not None
        positions = self._cache.begin(1)
        x = self._model.token_embedding(tokens).to(self._model.dtype) + self._model.position_embedding.weight[positions]
        x = x.squeeze(1)  # (B, C)
        for block in self._blocks:
            x = block(x, self._cache)
        self._cache.advance(1)
        return self._model.logits(self._model.final_norm(x))


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


def has_packed_parts(block: Block) -> bool:
    """Whether a block has packed layers only and attends by PyTorch's fused operation."""
    packed = all(isinstance(block.get_submodule(name), PackedLinear) for name in PRODUCTS)
    return packed and block.attention.path is softmax_sdpa
