"""transformers as a peer: its class of the same configuration, trained as its Trainer does, sampled by `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.config.schema import TrainSettings
from quillgpt.errors import UserError
from quillgpt.extras import import_extra
from quillgpt.model import GPTConfig


def make_model(config: GPTConfig, dropout: float) -> Any:
    """Make the `GPT2LMHeadModel` or `Qwen3ForCausalLM` of a configuration, with random weights in float32.

    GPT-2's class always has biases, so it has more parameters than our model without biases.

    Raises:
        UserError: transformers is not installed.
    """
    transformers = import_extra("transformers", extra="dev", purpose="--peer transformers")
    transformers.utils.logging.set_verbosity_error()
    content = to_config_json(config, dropout=dropout, end_of_text=None)
    peer_config = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    return transformers.AutoModelForCausalLM.from_config(peer_config)


def description(model: Any, config: GPTConfig) -> str:
    """Return the name of the class, and whether it has biases that our model has not."""
    extra_biases = config.architecture.biases and not config.bias
    return type(model).__name__ + (" (always with biases)" if extra_biases else "")


def make_optimizer(model: Any, settings: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """Return the Trainer's optimizer: AdamW, fused on a GPU."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        fused=device.type == "cuda",
    )


def loss_of(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss, given inputs and targets, both ids (B, T)."""
    loss: Tensor = model(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False).loss
    return loss


def check_context(config: GPTConfig, tokens: int) -> None:
    """Check that samples fit into the model's context, which `generate` does not slide.

    Raises:
        UserError: They do not fit.
    """
    if tokens > config.block_size:
        raise UserError(
            f"transformers does not sample beyond the context of {config.block_size} tokens, but {tokens} new ones are "
            f"requested; use --max_new_tokens={config.block_size} or less, or leave this peer out"
        )


def draw(model: Any, *, samples: int, tokens: int, temperature: float, top_k: int, device: torch.device) -> None:
    """Draw samples with `generate` and its key-value cache, all in one batch."""
    prompt = torch.zeros(samples, 1, dtype=torch.int64, device=device)
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=tokens,
        do_sample=True,
        temperature=temperature,
        top_k=top_k,
        pad_token_id=0,
    )
