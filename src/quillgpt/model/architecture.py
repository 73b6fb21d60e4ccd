"""The two architectures, and the sizes that go with them in training from scratch."""

from __future__ import annotations

from typing import Literal

Arch = Literal["gpt2", "qwen3"]


def usual_mlp_dim(arch: Arch, n_embd: int) -> int:
    """Return the MLP's hidden width in training from scratch.

    gpt2 has 4 C. qwen3's MLP has three matrices instead of two, so 8/3 C, rounded up to a multiple of 64, costs as
    many parameters.
    """
    return 4 * n_embd if arch == "gpt2" else -(-8 * n_embd // (3 * 64)) * 64


def padded_vocab_size(tokens: int) -> int:
    """Round a vocabulary above 1,000 up to a multiple of 64, which matrix units prefer (50257 becomes 50304)."""
    return tokens if tokens <= 1000 else -(-tokens // 64) * 64
