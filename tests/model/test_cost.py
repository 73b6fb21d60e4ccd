"""What the formulas say of memory is what autograd and the optimizers hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quillgpt.config import resolve
from quillgpt.device import autocast
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.cost import saved_bytes_per_token, training_memory
from quillgpt.optim.groups import group_parameters
from quillgpt.optim.optimizers import OPTIMIZERS, make_optimizers, remembered_values

TOLERANCE = 0.06
"""Small things are left out: statistics of norms, masks that the whole batch shares."""


def config_of(arch: str, n_kv_head: int, *, block_size: int = 64, vocab_size: int = 500) -> GPTConfig:
    return GPTConfig(
        arch=arch,  # type: ignore[arg-type]
        vocab_size=vocab_size,
        block_size=block_size,
        n_layer=3,
        n_head=3,
        n_kv_head=n_kv_head,
        n_embd=96,
        head_dim=32,
        mlp_dim=384,
    )


def saved_bytes(model: GPT, sequences: int, dtype: torch.dtype) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, besides parameters and buffers."""
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    tokens = torch.randint(model.config.vocab_size, (sequences, model.config.block_size))
    device = torch.device("cpu")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, dtype):
        loss = model.loss_sum(tokens, tokens, torch.arange(sequences))
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("attn_path", ["sdpa", "explicit", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("arch", "n_kv_head"), [("gpt2", 3), ("qwen3", 3), ("qwen3", 1)])
def test_activations(arch: str, n_kv_head: int, dtype: torch.dtype, attn_path: str, dropout: float) -> None:
    config = config_of(arch, n_kv_head)
    model = GPT(config, dropout=dropout, attn_path=attn_path).train()
    # The difference of two sizes leaves out what does not depend on the batch: 16-bit copies of the weights.
    measured = (saved_bytes(model, 6, dtype) - saved_bytes(model, 2, dtype)) / (4 * config.block_size)
    predicted = saved_bytes_per_token(
        config, attn_path=attn_path, dropout=dropout > 0, value_bytes=torch.empty((), dtype=dtype).element_size()
    )
    assert predicted == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("arch", ["gpt2", "qwen3"])
def test_weights_gradients_and_optimizer(arch: str, optimizer: str) -> None:
    model = GPT(config_of(arch, 3))
    settings = resolve("demo", {"optimizer": optimizer}, environ={}, dotenv=None)
    optimizers = make_optimizers(model, settings)
    tokens = torch.zeros(1, 64, dtype=torch.int64)
    model.loss_sum(tokens, tokens).backward()
    gradients = sum(each.grad.nbytes for each in model.parameters() if each.grad is not None)
    optimizers.step(torch.amp.GradScaler("cpu", enabled=False))
    predicted = training_memory(
        model.config,
        parameters=model.parameter_count(),
        trained=model.parameter_count(),
        remembered=sum(remembered_values(group_parameters(model), settings).values()),
        sequences=1,
        attn_path="sdpa",
        dropout=False,
        value_bytes=4,
    )
    assert predicted.weights == sum(each.nbytes for each in model.parameters())
    assert predicted.gradients == gradients
    remembered = sum(value.nbytes for value in optimizers.state().values() if value.ndim)
    assert predicted.optimizer == remembered
    assert predicted.total == predicted.state + predicted.activations


def test_sixteen_bits_halve_what_products_read_but_add_copies_of_the_weights() -> None:
    config = config_of("gpt2", 3)
    options = {
        "parameters": 1000,
        "trained": 1000,
        "remembered": 2000,
        "sequences": 2,
        "attn_path": "sdpa",
        "dropout": False,
    }
    whole = training_memory(config, value_bytes=4, **options)  # type: ignore[arg-type]
    half = training_memory(config, value_bytes=2, **options)  # type: ignore[arg-type]
    assert half.activations < whole.activations
    assert half.weights == whole.weights + 2000
    assert half.optimizer == whole.optimizer


def test_a_gpu_drops_inside_its_kernel() -> None:
    config = config_of("gpt2", 3, block_size=1024)
    options = {"attn_path": "sdpa", "dropout": True, "value_bytes": 2}
    assert saved_bytes_per_token(config, gpu=True, **options) < saved_bytes_per_token(config, **options) / 2  # type: ignore[arg-type]
