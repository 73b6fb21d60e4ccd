"""One transformer block: attention, then a feed-forward part, each added to the residual stream.

Shapes: B batch, T query position, S key position, H heads, G key and value heads, D head width, C model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.attention import attention_path, dropout, range_excess
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.rope import rotate
from quillgpt.model.shape import GPTConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the positions at hand, each (T, D)."""


class LayerNorm(nn.Module):
    """LayerNorm with an optional bias (nn.LayerNorm's, under a name that the two norms share)."""

    def __init__(self, width: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension to mean 0 and variance 1, then scale and shift."""
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), _as(self.bias, x), self.eps)


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Scale the last dimension to mean square 1, in float32, then by the weight."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class PerHead(nn.Module):
    """A learnt number for each head."""

    def __init__(self, heads: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((heads,), start))

    def forward(self, like: Tensor) -> Tensor:
        """Return the numbers, (heads, 1, 1), in the format of `like`."""
        return self.weight[:, None, None].to(like.dtype)


class Attention(nn.Module):
    """Causal multi-head self-attention by the kernel that the shape names.

    Attributes:
        range_limit: How far below 0 a Gaussian kernel's arguments may lie unnoticed; None notices nothing.
        excess: What lay below in the last pass of training; see `range_excess`.
    """

    def __init__(self, config: GPTConfig, layer: int, *, dropout: float, attn_path: str) -> None:
        super().__init__()
        self.layer = layer
        self.heads = (config.n_head, config.n_kv_head, config.n_kv_head)
        self.head_dim = config.head_dim
        self.dropout = dropout
        self.attend = attention_path(config.kernel, attn_path, block_size=config.block_size, dropout=dropout > 0)
        self.qkv = nn.Linear(config.n_embd, config.qkv_dim, bias=config.bias)
        self.output = nn.Linear(config.n_head * config.head_dim, config.n_embd, bias=config.bias)
        normed = config.arch == "qwen3"
        self.query_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None
        self.key_norm = RMSNorm(config.head_dim, eps=config.norm_eps) if normed else None
        self.unit_norm = config.kernel.qk_norm and not normed
        self.log_tau = PerHead(config.n_kv_head, 0.0) if config.kernel.learn_tau else None
        self.gain = PerHead(config.n_head, 1.0) if config.kernel.learn_gain else None
        self.range_limit: float | None = None
        self.excess: Tensor | None = None

    def forward(self, x: Tensor, rotation: Rotation | None, cache: KeyValueCache | None) -> Tensor:
        """Mix positions: x (B, T, C) to (B, T, C)."""
        parts = self.qkv(x).split([heads * self.head_dim for heads in self.heads], dim=-1)
        query, key, value = (part.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for part in parts)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.unit_norm:
            query, key = F.rms_norm(query, query.shape[-1:]), F.rms_norm(key, key.shape[-1:])
        if self.log_tau is not None:  # a factor of the squared distance is its root's of queries and keys
            root = torch.exp(0.5 * self.log_tau(key))
            query, key = query * root.repeat_interleave(query.shape[1] // key.shape[1], 0), key * root
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if self.range_limit is not None and self.training:
            self.excess = range_excess(query, key, self.range_limit)
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        visible = cache.visible if cache is not None else None
        mixed = self.attend(query, key, value, self.dropout if self.training else 0.0, visible)  # (B, H, T, D)
        if self.gain is not None:
            mixed = mixed * self.gain(mixed)
        return self.output(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """GPT-2's feed-forward part: widen, GELU, narrow."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.n_embd, config.mlp_dim, bias=config.bias)
        self.down = nn.Linear(config.mlp_dim, config.n_embd, bias=config.bias)
        self.approximate = "tanh" if config.activation == "gelu_new" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position: (B, T, C) to (B, T, C)."""
        return self.down(F.gelu(self.up(x), approximate=self.approximate))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): one half of the wide layer gates the other."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.n_embd, 2 * config.mlp_dim, bias=False)
        self.down = nn.Linear(config.mlp_dim, config.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position: (B, T, C) to (B, T, C)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward part, each on a normalised copy of the residual stream."""

    def __init__(self, config: GPTConfig, layer: int, *, dropout: float, attn_path: str) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer, dropout=dropout, attn_path=attn_path)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config) if config.arch == "gpt2" else GatedMLP(config)
        self.dropout = dropout

    def forward(self, x: Tensor, rotation: Rotation | None, cache: KeyValueCache | None) -> Tensor:
        """Update the residual stream: (B, T, C) to (B, T, C)."""
        x = x + self._drop(self.attention(self.attention_norm(x), rotation, cache))
        return x + self._drop(self.mlp(self.mlp_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout if self.training else 0.0)


def make_norm(config: GPTConfig) -> LayerNorm | RMSNorm:
    """Return the norm of the architecture, over the width of the model."""
    if config.arch == "gpt2":
        return LayerNorm(config.n_embd, eps=config.norm_eps, bias=config.bias)
    return RMSNorm(config.n_embd, eps=config.norm_eps)


def _as(parameter: Tensor | None, like: Tensor) -> Tensor | None:
    return None if parameter is None else parameter.to(like.dtype)
