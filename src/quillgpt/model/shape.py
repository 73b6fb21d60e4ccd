"""The shape of a model: everything that fixes its parameters and its function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quillgpt.attention import SOFTMAX, KernelSpec

Arch = Literal["gpt2", "qwen3"]
Activation = Literal["gelu", "gelu_new"]


@dataclass(frozen=True)
class GPTConfig:
    """What fixes the parameters of a model and what it computes from them.

    Attributes:
        arch: gpt2 (LayerNorm, learned positions, GELU) or qwen3 (RMSNorm, RoPE, SwiGLU, QK-norm).
        vocab_size: Rows of the embedding, V; may exceed the tokenizer's vocabulary.
        block_size: Longest context, in tokens.
        n_embd: Width of the model, C.
        n_head: Attention heads, H.
        n_kv_head: Key and value heads, G; H is a multiple of it.
        head_dim: Width of a head, D.
        mlp_dim: Width of the hidden layer of the feed-forward part.
        bias: Biases in linear layers and norms (gpt2).
        activation: `gelu` (erf) or `gelu_new` (tanh) (gpt2).
        norm_eps: Added to the variance in norms.
        rope_theta: Base of the wavelengths of rotary positions (qwen3).
        tied: The output head is the token embedding.
        kernel: How tokens look at each other.
    """

    arch: Arch
    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    head_dim: int
    mlp_dim: int
    bias: bool = False
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    tied: bool = True
    kernel: KernelSpec = SOFTMAX

    @property
    def qkv_dim(self) -> int:
        """Width of queries, keys and values together."""
        return sum(self.fused_maps["attention.qkv.weight"])

    @property
    def fused_maps(self) -> dict[str, list[int]]:
        """The rows of each linear map in the matrices that hold several, by the end of their names."""
        queries, keys = self.n_head * self.head_dim, self.n_kv_head * self.head_dim
        return {"attention.qkv.weight": [queries, keys, keys], "mlp.gate_up.weight": [self.mlp_dim, self.mlp_dim]}


def usual_mlp_dim(arch: Arch, n_embd: int) -> int:
    """Return the width of the feed-forward part that training from scratch uses.

    gpt2 has 4 C. qwen3's gated part has three matrices instead of two, so 8/3 C, rounded up to a multiple of 64,
    costs as many parameters.
    """
    return 4 * n_embd if arch == "gpt2" else -(-8 * n_embd // (3 * 64)) * 64


def padded_vocab_size(tokens: int) -> int:
    """Round a vocabulary above 1,000 up to a multiple of 64, which matrix units prefer (50257 becomes 50304)."""
    return tokens if tokens <= 1000 else -(-tokens // 64) * 64
