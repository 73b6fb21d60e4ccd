"""Attention kernels, each with fast paths and a slow reference."""

from quillgpt.attention.dropout import dropout, spread
from quillgpt.attention.excess import excess_kernel, range_excess
from quillgpt.attention.masks import causal_mask, repeat_heads
from quillgpt.attention.paths import Attend, path_named
from quillgpt.attention.spec import SOFTMAX, KernelSpec

__all__ = [
    "SOFTMAX",
    "Attend",
    "KernelSpec",
    "causal_mask",
    "dropout",
    "excess_kernel",
    "path_named",
    "range_excess",
    "repeat_heads",
    "spread",
]
