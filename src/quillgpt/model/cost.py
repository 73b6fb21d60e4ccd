"""What a model costs in operations and memory, as pure functions of its configuration.

Shapes: T context, H heads, D head width, C model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quillgpt.model.gpt import GPTConfig
from quillgpt.model.loss import TOKENS_AT_ONCE

FLOAT32_BYTES = 4
"""Bytes of a weight, a gradient, or a value in the optimizer's state."""

FORWARD_SHARE = 1 / 3
"""Share of the operations of a training step that its forward pass needs."""


def training_flops_per_token(config: GPTConfig, parameters: int) -> float:
    """Return the floating-point operations of forward and backward pass, for one token of a full context.

    That is 6 for each parameter, and 12 L H D T for attention's two products (Chowdhery et al. 2022, PaLM,
    appendix B; nanoGPT's estimate). A token embedding that the head does not share is only read, and costs nothing.

    Args:
        config: Configuration of the model.
        parameters: Number of its parameters without position embeddings.
    """
    multiplied = parameters if config.tied else parameters - config.vocab_size * config.n_embd
    return 6 * multiplied + 12 * config.n_layer * config.n_head * config.head_dim * config.block_size


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of a training step, in bytes.

    Attributes:
        weights: The parameters, their average if there is one, those of teachers that the run trains, and in 16-bit
            formats the copies for matrix products.
        gradients: One float32 for each parameter.
        optimizer: The optimizer's state.
        activations: The tensors that the forward pass of one micro-batch saves for the backward pass, and the gradient
            of the logits; or, where the loss is computed in parts, a part's logits and the gradient of the head.
        gathered: What several processes that share the weights gather for a moment.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    gathered: int = 0

    @property
    def state(self) -> int:
        """The part that does not depend on the batch: weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it, without the program itself and memory that libraries reserve."""
        return self.state + self.activations + self.gathered


def training_memory(
    config: GPTConfig,
    *,
    parameters: int,
    trained: int,
    remembered: int,
    averaged: bool = False,
    sequences: int,
    attn_path: str,
    dropout: bool,
    recomputed: bool = False,
    value_bytes: int,
    gpu: bool = False,
    in_parts: bool = False,
    head_trained: bool = True,
    taught: bool = False,
    own_teachers: int = 0,
) -> TrainingMemory:
    """Return the memory of a training step with an uncompiled model.

    Args:
        config: Configuration of the model.
        parameters: Number of its parameters.
        trained: How many of them are trained.
        remembered: Number of values in the optimizer's state.
        averaged: Whether an average of the weights is kept.
        sequences: Sequences of a micro-batch, all as long as the context.
        attn_path: The path of attention, as in the settings.
        dropout: Whether there is any.
        recomputed: Whether only the inputs of blocks are saved (gradient checkpointing).
        value_bytes: Bytes of a number in matrix products: 4 for float32, 2 for 16-bit formats.
        gpu: Whether it runs on a GPU, whose fused attention has dropout; that of CPUs has not.
        in_parts: Whether the loss is computed in parts.
        head_trained: Whether the head is among the trained parameters.
        taught: Whether other models teach it, in parts. Of those, only own teachers are counted.
        own_teachers: How many the run trains first.
    """
    copies = 0 if value_bytes == FLOAT32_BYTES else value_bytes * parameters
    saved = saved_bytes_per_token(
        replace(config, n_layer=1) if recomputed else config,
        attn_path=attn_path,
        dropout=dropout,
        value_bytes=value_bytes,
        gpu=gpu,
        in_parts=in_parts,
    )
    if recomputed:
        saved += config.n_layer * FLOAT32_BYTES * config.n_embd
    tokens = sequences * config.block_size
    if in_parts:
        of_loss = min(tokens, TOKENS_AT_ONCE) * value_bytes * config.vocab_size
        of_loss += FLOAT32_BYTES * config.vocab_size * config.n_embd if head_trained else 0
    else:
        of_loss = tokens * FLOAT32_BYTES * config.vocab_size
    if taught:  # a teacher's logits, its probabilities, and the mean of all
        of_loss += min(tokens, TOKENS_AT_ONCE) * (value_bytes + 2 * FLOAT32_BYTES) * config.vocab_size
    return TrainingMemory(
        weights=FLOAT32_BYTES * parameters * ((2 if averaged else 1) + own_teachers) + copies,
        gradients=FLOAT32_BYTES * trained,
        optimizer=FLOAT32_BYTES * remembered,
        activations=tokens * saved + of_loss,
    )


def saved_bytes_per_token(
    config: GPTConfig, *, attn_path: str, dropout: bool, value_bytes: int, gpu: bool = False, in_parts: bool = False
) -> int:
    """Return the bytes that the forward pass saves for the backward pass, for each token of a full context.

    The residual stream and the results of norms are float32; matrix products read and write the format of the
    computation. Counted tensor by tensor as autograd saves them on a CPU, which a test measures. Arguments are those of
    `training_memory`.
    """
    C, heads_width = config.n_embd, config.n_head * config.head_dim
    architecture = config.architecture
    rms, gated, rotary = architecture.norm == "rms", architecture.mlp == "swiglu", architecture.positions == "rotary"
    # Both norms save their input, and RMSNorm also what it scales; the products after them save the norm's output.
    norms = 2 * C * (FLOAT32_BYTES * (2 if rms else 1) + value_bytes)
    # Before and after GELU; or gate and up, the gate's SiLU, and their product.
    hidden = (4 if gated else 2) * config.mlp_dim * value_bytes
    if attn_path in ("recompute", "augmented"):  # inputs and result, and their wider copies
        copies = value_bytes if attn_path == "recompute" else 2 * FLOAT32_BYTES
        attention = value_bytes * (config.qkv_dim + heads_width) + copies * 3 * heads_width
    elif attn_path == "sdpa" and (gpu or not dropout):
        attention = value_bytes * (config.qkv_dim + (2 if rotary else 1) * heads_width) + FLOAT32_BYTES * config.n_head
    else:  # two products, which a CPU computes for `sdpa` too where there is dropout
        weights = config.n_head * config.block_size * (3 if dropout else 1)
        attention = value_bytes * (4 * heads_width + weights)
    if rotary:  # queries and keys are normalised and rotated in float32
        attention += 2 * FLOAT32_BYTES * (config.n_head + config.n_kv_head) * config.head_dim
    dropped = 2 * C * value_bytes if dropout else 0
    once = C * (FLOAT32_BYTES * (2 if rms else 1) + value_bytes + (FLOAT32_BYTES if dropout else 0))
    of_loss = FLOAT32_BYTES * (C if in_parts else config.vocab_size)  # a gradient, or log-probabilities
    if attn_path == "fused" and config.fusible:
        # Inputs and results of matrix products, or GELU's derivative; both sums of the residual stream; heads once more
        # where they are rotated, with what they were divided by; two numbers for each query.
        products = value_bytes * (2 * C + heads_width + config.qkv_dim + (3 if gated else 2) * config.mlp_dim)
        turned = value_bytes * config.qkv_dim + FLOAT32_BYTES * (config.n_head + config.n_kv_head) if rotary else 0
        if not in_parts:  # the last sum and its norm, and the gradient of the logits
            once = C * (FLOAT32_BYTES + value_bytes + (FLOAT32_BYTES if dropout else 0))
            of_loss = value_bytes * config.vocab_size
        return config.n_layer * (products + turned + FLOAT32_BYTES * 2 * (C + config.n_head)) + once + of_loss
    return config.n_layer * (norms + attention + hidden + dropped) + once + of_loss
