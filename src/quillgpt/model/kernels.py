"""Attention kernels: their table, and causal self-attention with a kernel that is not plain softmax.

Shapes: B batch, H heads, G key and value heads, T query position, S key position, D head width.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quillgpt.attention import Attend, KernelSpec, excess_kernel, path_named, range_excess
from quillgpt.attention.paths import Augmented, Recompute
from quillgpt.attention.recompute import Operation
from quillgpt.model.gpt import GPT, SOFTMAX_PATHS, STANDARD_DEVIATION, CausalSelfAttention, GPTConfig


def attention_paths(spec: KernelSpec, *, block_size: int, dropout: bool = False) -> Mapping[str, Attend]:
    """Return the implementations of a kernel by the names that `attn_path` gives them; equal but for rounding.

    Args:
        spec: The kernel.
        block_size: Context of the model.
        dropout: Whether attention weights are dropped in training; not every path can.
    """
    if spec.type.family == "SM":
        return SOFTMAX_PATHS
    return {name: make() for name, make in path_makers(spec, block_size, dropout=dropout).items()}


def attention_path(spec: KernelSpec, name: str, *, block_size: int, dropout: bool = False) -> Attend:
    """Return one implementation of a kernel; `auto` is the first.

    Raises:
        ConfigError: The kernel has no such path.
    """
    kernel = f"{spec.attn_type} with dropout" if dropout else spec.attn_type
    if spec.type.family == "SM":
        return path_named(name, SOFTMAX_PATHS, kernel=kernel)
    return path_named(name, path_makers(spec, block_size, dropout=dropout), kernel=kernel)()


def path_makers(spec: KernelSpec, block_size: int, *, dropout: bool) -> dict[str, Callable[[], Attend]]:
    """Return functions that make the paths of a kernel other than softmax, by the names of the paths."""
    makers: dict[str, Callable[[], Attend]] = {"recompute": partial(Recompute, spec, block_size)}
    if spec.type.family in ("GK", "GKn") and (spec.normalized or not dropout):
        makers["augmented"] = partial(Augmented, spec, block_size)
    if (operation := triton_operation(spec)) is not None:
        makers["triton"] = partial(Recompute, spec, block_size, operation)
    return makers


def triton_operation(spec: KernelSpec) -> Operation | None:
    """Return the recomputing operation in Triton, or None if it lacks the kernel, a GPU or Triton itself."""
    if not triton_runs():
        return None
    from quillgpt.attention.triton_kernels import has_kernel, triton_weighted_sums

    return triton_weighted_sums if has_kernel(spec) else None


@cache
def triton_runs() -> bool:
    """Whether there is Triton and a GPU for it; with `TRITON_INTERPRET=1` its interpreter runs on a CPU, for tests."""
    wanted = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    return wanted and importlib.util.find_spec("triton") is not None


class PerHead(nn.Module):
    """A learnt number for each head."""

    def __init__(self, heads: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((heads,), start))

    def forward(self, like: Tensor) -> Tensor:
        """Return the numbers, (heads, 1, 1), in the number format of `like`."""
        return self.weight[:, None, None].to(like.dtype)


class KernelAttention(CausalSelfAttention):
    """Causal self-attention with the kernel of the configuration, and what that kernel learns for each head.

    Attributes:
        path: The implementation of the kernel.
        range_kernel: Measures how far a Gaussian kernel's arguments lie below a limit; None: they are not measured.
        excess: The result of the last training pass; see `range_excess`.
    """

    def __init__(self, config: GPTConfig, layer: int, *, dropout: float, attn_path: str) -> None:
        super().__init__(config, layer, dropout=dropout)
        kernel = config.kernel
        self.path = attention_path(kernel, attn_path, block_size=config.block_size, dropout=dropout > 0)
        self.unit_norm = kernel.qk_norm and self.query_norm is None
        self.log_tau = PerHead(config.n_kv_head, 0.0) if kernel.learn_tau else None
        self.gain = PerHead(config.n_head, 1.0) if kernel.learn_gain else None
        self.range_kernel: KernelSpec | None = None
        self.excess: Tensor | None = None

    def qk_norm(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise queries and keys, if architecture or kernel do, and scale them by the root of tau."""
        query, key = super().qk_norm(query, key)
        if self.unit_norm:
            query, key = F.rms_norm(query, query.shape[-1:]), F.rms_norm(key, key.shape[-1:])
        if self.log_tau is not None:  # tau multiplies the squared distance, so its root both queries and keys
            root = torch.exp(0.5 * self.log_tau(key))
            query, key = query * root.repeat_interleave(query.shape[1] // key.shape[1], 0), key * root
        return query, key

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout_p: float,
        visible: Tensor | None = None,
        seeds: Tensor | None = None,
        /,
    ) -> Tensor:
        """Return the values weighted by the kernel, times the gains of the heads."""
        if self.range_kernel is not None and self.training:
            self.excess = range_excess(query, key, self.range_kernel)
        mixed = self.path(query, key, value, dropout_p, visible, seeds)
        return mixed if self.gain is None else mixed * self.gain(mixed)


def limit_range(model: GPT, limit: float) -> None:
    """Let training passes measure how far arguments of a Gaussian kernel lie below -limit."""
    kernel = excess_kernel(limit)
    for attention in kernel_attentions(model):
        attention.range_kernel = kernel


def mean_range_excess(model: GPT) -> Tensor:
    """Return the range excess of the last training pass: a scalar, the mean over layers of the sum over texts."""
    return torch.stack([attention.excess for attention in kernel_attentions(model)]).mean()  # type: ignore[misc]


def kernel_attentions(model: GPT) -> list[KernelAttention]:
    """Return the attention of every block that has a kernel other than plain softmax."""
    attentions = (block.attention for block in model.blocks)
    return [attention for attention in attentions if isinstance(attention, KernelAttention)]


def mean_distance_argument(config: GPTConfig) -> float:
    """Estimate x = -|q-k|^2 / (2 sqrt D) of an average pair in a newly initialised model.

    Entries of queries and keys have a variance of 0.02^2 C, or 1 if they are normalised. The difference of two
    independent ones has twice that, so x = -sqrt(D) variance. A few units below 0, a Gaussian kernel's weights are
    almost 0, and so is the result of attention.
    """
    normalised = config.architecture.qk_norm or config.kernel.qk_norm
    variance = 1.0 if normalised else STANDARD_DEVIATION**2 * config.n_embd
    return -math.sqrt(config.head_dim) * variance
