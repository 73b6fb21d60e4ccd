"""The table of attention kernels: what `attn_type` and `attn_path` name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from quillgpt.attention.paths import Augmented, Recompute
from quillgpt.attention.recompute import Operation
from quillgpt.attention.softmax import softmax_explicit, softmax_sdpa
from quillgpt.attention.spec import KernelSpec
from quillgpt.errors import ConfigError


class Attend(Protocol):
    """One path of a kernel: causal, the queries are the last of the keys."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, visible: Tensor | None = None, /
    ) -> Tensor:
        """Mix values: (B,H,T,D), (B,G,S,D), (B,G,S,D), dropout to (B,H,T,D).

        `visible`, bool (1, S), says which keys a single query (T = 1) may see; None: all.
        """
        ...


def attention_paths(spec: KernelSpec, *, block_size: int, dropout: bool = False) -> Mapping[str, Attend]:
    """Return the implementations of a kernel by the names that `attn_path` gives them; equal but for rounding.

    Args:
        spec: The kernel.
        block_size: Context of the model.
        dropout: Whether weights are dropped in training, which not every path can.
    """
    if spec.type.family == "SM":
        return {"sdpa": softmax_sdpa, "explicit": softmax_explicit}
    paths: dict[str, Attend] = {"recompute": Recompute(spec, block_size)}
    if spec.type.family in ("GK", "GKn") and (spec.normalized or not dropout):
        paths["augmented"] = Augmented(spec)
    # Triton's kernels see the keys a piece at a time, and so no query's greatest argument before the last.
    if not spec.is_softmax and (operation := triton_operation()) is not None:
        paths["triton"] = Recompute(spec, block_size, operation)
    return paths


@cache
def triton_operation() -> Operation | None:
    """Return the recomputing kernel in Triton; None where there is no GPU for it, or no Triton.

    `TRITON_INTERPRET=1` has Triton's interpreter run it on a CPU, which is for checking alone.
    """
    wanted = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
    if not wanted or importlib.util.find_spec("triton") is None:
        return None
    from quillgpt.attention.triton_kernels import triton_weighted_sums

    return triton_weighted_sums


def attention_path(spec: KernelSpec, name: str, *, block_size: int, dropout: bool = False) -> Attend:
    """Return one implementation of a kernel; `auto` is the first.

    Raises:
        ConfigError: The kernel has no such path.
    """
    paths = attention_paths(spec, block_size=block_size, dropout=dropout)
    if name == "auto":
        return next(iter(paths.values()))
    if name not in paths:
        dropping = " with dropout" if dropout else ""
        raise ConfigError(
            f"attn_path = {name} is no way to compute {spec.attn_type}{dropping}; give auto or {' or '.join(paths)}"
        )
    return paths[name]
