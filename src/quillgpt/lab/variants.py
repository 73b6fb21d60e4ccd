"""A model's weights with another attention kernel, or with another context length."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.model import GPT, attention_path
from quillgpt.model.kernels import kernel_attentions

POSITIONS = "position_embedding.weight"


def with_kernel(model: GPT, kernel: KernelSpec) -> GPT:
    """Return a model in evaluation mode that shares all weights and computes attention by another kernel.

    Parameters of the other kernel that the model does not have, tau and gain, start at 1.
    """
    return _with_weights(GPT(replace(model.config, kernel=kernel), seed=None), model, model.state_dict())


def with_block_size(model: GPT, block_size: int) -> GPT:
    """Return a model in evaluation mode that shares all weights and reads blocks of another length.

    Rotary positions are extrapolated. Learned positions (gpt2) are interpolated linearly to the new length. PA still
    divides by the block_size of training.
    """
    state = model.state_dict()
    if POSITIONS in state:
        state[POSITIONS] = stretched(state[POSITIONS], block_size)
    other = _with_weights(GPT(replace(model.config, block_size=block_size), seed=None), model, state)
    for attention in kernel_attentions(other):
        attention.path = attention_path(model.config.kernel, "auto", block_size=model.config.block_size)
    return other


def stretched(table: Tensor, rows: int) -> Tensor:
    """Interpolate a table (R, C) to another number of rows; its first and last rows stay."""
    return F.interpolate(table.T[None], size=rows, mode="linear", align_corners=True)[0].T.contiguous()


def _with_weights(other: GPT, model: GPT, state: dict[str, Tensor]) -> GPT:
    own = {name: tensor for name, tensor in other.to(model.device).state_dict().items() if name not in state}
    known = {name: tensor for name, tensor in state.items() if name in other.state_dict()}
    other.load_state_dict(own | known, assign=True)
    other.tie()
    return other.eval()
