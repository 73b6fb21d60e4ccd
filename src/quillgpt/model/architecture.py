"""The architectures: the parts that their models consist of, and their sizes in training from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quillgpt.config.schema import Arch


@dataclass(frozen=True)
class Architecture:
    """The parts of an architecture's models, apart from their sizes.

    Attributes:
        norm: `layer` (LayerNorm) or `rms` (RMSNorm).
        positions: `learned` (an embedding) or `rotary`.
        mlp: `gelu` or `swiglu`.
        qk_norm: Queries and keys are normalised, head by head, with learnt weights.
        biases: Linear layers and norms may have biases.
        norm_eps: What norms add to the variance, in models from scratch.
    """

    norm: Literal["layer", "rms"]
    positions: Literal["learned", "rotary"]
    mlp: Literal["gelu", "swiglu"]
    qk_norm: bool
    biases: bool
    norm_eps: float

    def mlp_dim(self, n_embd: int) -> int:
        """Return the hidden width of the MLP in models from scratch.

        That is 4 C. SwiGLU has three matrices instead of two, so 8/3 C, rounded up to a multiple of 64, costs as many
        parameters.
        """
        return 4 * n_embd if self.mlp == "gelu" else -(-8 * n_embd // (3 * 64)) * 64

    @property
    def unused(self) -> frozenset[str]:
        """The fields of `GPTConfig` that say nothing about such a model."""
        used = {"rope_theta": self.positions == "rotary", "activation": self.mlp == "gelu", "bias": self.biases}
        return frozenset(name for name, is_used in used.items() if not is_used)


ARCHITECTURES: dict[Arch, Architecture] = {
    "gpt2": Architecture(norm="layer", positions="learned", mlp="gelu", qk_norm=False, biases=True, norm_eps=1e-5),
    "qwen3": Architecture(norm="rms", positions="rotary", mlp="swiglu", qk_norm=True, biases=False, norm_eps=1e-6),
}
"""A new architecture is its name in the setting `arch`, an entry here, and one in checkpoint/stock_classes.py."""


def padded_vocab_size(tokens: int) -> int:
    """Round a vocabulary above 1,000 up to a multiple of 64, which matrix units prefer (50257 becomes 50304)."""
    return tokens if tokens <= 1000 else -(-tokens // 64) * 64
