"""The weights that are trained, where they are not those of the checkpoint's model: beside an average, or adapters."""

from __future__ import annotations

from pathlib import Path

from quillgpt.checkpoint import StoredTraining
from quillgpt.distributed.shards import fill
from quillgpt.errors import CheckpointError
from quillgpt.model import GPT
from quillgpt.optim.groups import group_parameters


def load_raw_weights(model: GPT, stored: StoredTraining, folder: Path) -> None:
    """Give a model the weights that a checkpoint keeps apart from those of its own model, if it does.

    Raises:
        CheckpointError: They are another model's.
    """
    settings = stored.state.settings
    if not (settings.get("ema_decay") or settings.get("lora_rank")):
        return
    parameters, raw = group_parameters(model).trained, stored.raw_weights or {}
    if {name: p.shape for name, p in parameters.items()} != {name: tensor.shape for name, tensor in raw.items()}:
        raise CheckpointError(f"the training state in {folder} is of another model than its weights")
    fill(model, raw.items())
