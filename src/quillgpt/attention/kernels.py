"""The table of attention kernels: what `attn_type` and `attn_path` name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from quillgpt.attention import reference
from quillgpt.attention.softmax import softmax_explicit, softmax_sdpa


class Attend(Protocol):
    """One path of a kernel: causal, the queries are the last of the keys."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None, /
    ) -> Tensor:
        """Mix values: (B,H,T,D), (B,G,S,D), (B,G,S,D), dropout to (B,H,T,D).

        `visible`, bool (1, S), says which keys a single query (T = 1) may see; None: all.
        """
        ...


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
