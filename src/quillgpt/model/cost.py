"""What a model costs, as pure functions of its shape."""

from __future__ import annotations

from quillgpt.model.shape import ModelShape


def training_flops_per_token(shape: ModelShape, parameters: int) -> float:
    """Return the floating-point operations of forward and backward pass for one token of a full block.

    6 for each parameter that multiplies, and 12 L H D T for attention's two products (Chowdhery et al. 2022, PaLM,
    appendix B; nanoGPT's estimate).

    Args:
        shape: The shape of the model.
        parameters: Its parameters, position embeddings left out.
    """
    return 6 * parameters + 12 * shape.n_layer * shape.n_head * shape.head_dim * shape.block_size
