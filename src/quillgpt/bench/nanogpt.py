"""nanoGPT as a peer: its model.py is imported from a checkout that the user names, and run as its scripts run it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quillgpt.errors import UserError
from quillgpt.model import ModelShape


def import_model(checkout: Path) -> ModuleType:
    """Import model.py of a nanoGPT checkout.

    Raises:
        UserError: It is not there.
    """
    path = checkout / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_peer_model", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path} does not exist; give the folder of a nanoGPT checkout: --peer nanogpt=PATH")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(checkout: Path, shape: ModelShape, dropout: float) -> Any:
    """Make nanoGPT's model of a shape.

    Raises:
        UserError: nanoGPT has no such architecture.
    """
    if shape.arch != "gpt2":
        raise UserError(f"nanoGPT has no arch = {shape.arch}; compare with arch = gpt2")
    module = import_model(checkout)
    config = module.GPTConfig(
        block_size=shape.block_size,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        dropout=dropout,
        bias=shape.bias,
    )
    return module.GPT(config)


class NanoGPTStep:
    """One iteration as nanoGPT's train.py does it on this device: autocast on a GPU only, clip, fused AdamW on a GPU.

    Args:
        model: nanoGPT's model, on its device.
        batch_size: Sequences of a micro-step.
        accumulation: Micro-steps.
        learning_rate: Of AdamW.
        compiled: Compile the model, as `--compile=True` does.
    """

    def __init__(self, model: Any, *, batch_size: int, accumulation: int, learning_rate: float, compiled: bool) -> None:
        self._model: Any = torch.compile(model) if compiled else model
        self._batch_size = batch_size
        self._accumulation = accumulation
        self._device: torch.device = next(model.parameters()).device
        self._optimizer = model.configure_optimizers(0.1, learning_rate, (0.9, 0.95), self._device.type)

    def __call__(self, inputs: Tensor, targets: Tensor) -> float:
        """Train on the global batch and return the loss of its last micro-step, which waits for the device."""
        loss = torch.zeros(())
        for part in range(self._accumulation):
            rows = slice(part * self._batch_size, (part + 1) * self._batch_size)
            with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._device.type == "cuda"):
                _, loss = self._model(inputs[rows], targets[rows])
                loss = loss / self._accumulation
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
