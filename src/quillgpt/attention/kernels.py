"""The table of attention kernels: what `attn_type` and `attn_path` name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from quillgpt.attention import reference
from quillgpt.attention.softmax import softmax_explicit, softmax_sdpa

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(query (B,H,T,D), key (B,G,S,D), value (B,G,S,D), dropout) -> (B,H,T,D), causal, queries last of the keys."""


@dataclass(frozen=True)
class Kernel:
    """One way for tokens to look at each other.

    Attributes:
        paths: Fast implementations by the name that `attn_path` gives them; equal but for rounding.
        reference: The formula, for tests: (query, key, value), all with H heads, without dropout.
    """

    paths: Mapping[str, Attend]
    reference: Callable[[Tensor, Tensor, Tensor], Tensor]


KERNELS: dict[str, Kernel] = {
    "SM": Kernel(
        paths={"sdpa": softmax_sdpa, "explicit": softmax_explicit},
        reference=reference.softmax_attention,
    ),
}
