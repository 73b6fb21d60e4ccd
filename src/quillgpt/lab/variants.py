"""A model's weights with another attention kernel, or with a longer context."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.model import GPT, attention_path
from quillgpt.model.kernels import kernel_attentions

POSITIONS = "position_embedding.weight"


def with_kernel(model: GPT, kernel: KernelSpec) -> GPT:
    """Return a model that shares all weights, computes attention by another kernel, and is in evaluation mode.

    What the other kernel learns for its heads and the model has not learnt begins as nothing: tau and gain of 1.
    """
    return _with_weights(GPT(replace(model.config, kernel=kernel), seed=None), model, model.state_dict())


def with_block_size(model: GPT, block_size: int) -> GPT:
    """Return a model that shares all weights and reads blocks of another length, in evaluation mode.

    Rotary positions go on as they are. Learned positions (gpt2) are stretched or shrunk to the length by linear
    interpolation. What PA divides by stays what the model was trained with.
    """
    state = model.state_dict()
    if POSITIONS in state:
        state[POSITIONS] = stretched(state[POSITIONS], block_size)
    other = _with_weights(GPT(replace(model.config, block_size=block_size), seed=None), model, state)
    for attention in kernel_attentions(other):
        attention.path = attention_path(model.config.kernel, "auto", block_size=model.config.block_size)
    return other


def stretched(table: Tensor, rows: int) -> Tensor:
    """Return a table (R, C) with another number of rows, its first and last as they were."""
    return F.interpolate(table.T[None], size=rows, mode="linear", align_corners=True)[0].T.contiguous()


def _with_weights(other: GPT, model: GPT, state: dict[str, Tensor]) -> GPT:
    own = {name: tensor for name, tensor in other.state_dict().items() if name not in state}
    known = {name: tensor for name, tensor in state.items() if name in other.state_dict()}
    other.to(model.device).load_state_dict(own | known, assign=True)
    other.tie()
    return other.eval()
