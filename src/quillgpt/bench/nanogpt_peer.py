"""nanoGPT as a peer: model.py is imported from a checkout that the user names, and run as nanoGPT's scripts run it."""

from __future__ import annotations

import importlib.util
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from quillgpt.config.schema import TrainSettings
from quillgpt.errors import UserError
from quillgpt.model import GPTConfig

ADVICE = "give the folder of a nanoGPT checkout: --peer nanogpt=PATH"


def import_model(checkout: Path) -> ModuleType:
    """Import model.py of a nanoGPT checkout.

    Raises:
        UserError: It is missing, cannot be imported, or belongs to another program.
    """
    path = checkout / "model.py"
    spec = importlib.util.spec_from_file_location("nanogpt_peer_model", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{path} does not exist; {ADVICE}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # code of another program may raise anything
        raise UserError(f"{path} cannot be imported ({type(error).__name__}: {error}); {ADVICE}") from error
    if missing := [name for name in ("GPT", "GPTConfig") if not hasattr(module, name)]:
        raise UserError(f"{path} has no {' and no '.join(missing)}; {ADVICE}")
    return module


def make_model(checkout: Path, config: GPTConfig, dropout: float) -> Any:
    """Make nanoGPT's model of a configuration; what it prints is dropped.

    Raises:
        UserError: nanoGPT does not have this architecture.
    """
    if config.arch != "gpt2":
        raise UserError(f"nanoGPT has no arch = {config.arch}; compare with arch = gpt2")
    module = import_model(checkout)
    peer_config = module.GPTConfig(
        block_size=config.block_size,
        vocab_size=config.vocab_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        dropout=dropout,
        bias=config.bias,
    )
    with redirect_stdout(StringIO()):
        return module.GPT(peer_config)


def make_optimizer(model: Any, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """Return nanoGPT's own AdamW, which is fused on a GPU."""
    with redirect_stdout(StringIO()):
        optimizer: torch.optim.Optimizer = model.configure_optimizers(
            settings.weight_decay, settings.learning_rate, (settings.beta1, settings.beta2), device.type
        )
    return optimizer


def loss_of(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss, given inputs and targets, both ids (B, T)."""
    loss: Tensor = model(inputs, targets)[1]
    return loss


def draw(model: Any, *, samples: int, tokens: int, temperature: float, top_k: int, device: torch.device) -> None:
    """Draw samples as nanoGPT's sample.py does: one after the other, with bfloat16 autocast on a GPU only."""
    on_gpu = device.type == "cuda"
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=on_gpu):
        for _ in range(samples):
            prompt = torch.zeros(1, 1, dtype=torch.int64, device=device)
            model.generate(prompt, tokens, temperature=temperature, top_k=top_k)
