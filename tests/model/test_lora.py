import pytest
import torch
from torch import nn

from quillgpt.model import adapters, add_adapters, merged_tensors
from tiny import CONFIGS, random_ids, randomize, tiny_model
from tolerances import FLOAT32


def adapted(arch, *, random=True, **options):
    model = tiny_model(CONFIGS[arch])
    add_adapters(model, **({"rank": 3, "alpha": 6.0, "dropout": 0.0, "seed": 0} | options))
    if random:
        for _, layer in adapters(model):
            nn.init.normal_(layer.lora_b, std=0.2)
    return model


def logits(model, ids):
    with torch.no_grad():
        return model.logits(model(ids))


@pytest.mark.parametrize("arch", CONFIGS)
def test_at_first_nothing_changes(arch):
    model, ids = tiny_model(CONFIGS[arch]), random_ids(CONFIGS[arch], 2, 16)
    assert torch.equal(logits(adapted(arch, random=False), ids), logits(model, ids))


@pytest.mark.parametrize("arch", CONFIGS)
def test_the_merged_model_computes_the_same(arch):
    model, plain, ids = adapted(arch), tiny_model(CONFIGS[arch], seed=1), random_ids(CONFIGS[arch], 2, 16)
    plain.load_state_dict(dict(merged_tensors(model)))
    torch.testing.assert_close(logits(plain, ids), logits(model, ids), **FLOAT32)
    assert not torch.allclose(logits(tiny_model(CONFIGS[arch]), ids), logits(model, ids), atol=1e-2)


@pytest.mark.parametrize("arch", CONFIGS)
def test_only_adapters_get_a_gradient(arch):
    model, ids = adapted(arch), random_ids(CONFIGS[arch], 2, 16)
    model.train()
    model.loss_sum(ids, ids).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(with_gradient) == 2 * 4 * 3  # two matrices for each of four layers in three blocks


@pytest.mark.parametrize(("targets", "layers"), [("attention", ["qkv", "output"]), ("mlp", ["up", "down"])])
def test_targets(targets, layers):
    assert [name for name, _ in adapters(adapted("gpt2", targets=targets))] == [
        f"blocks.{block}.{targets}.{layer}" for block in range(3) for layer in layers
    ]


def test_dropout_drops_inputs_of_the_adapters_only():
    model, ids = adapted("gpt2", dropout=0.5), random_ids(CONFIGS["gpt2"], 2, 16)
    still = logits(model, ids)
    assert torch.equal(logits(model, ids), still)
    model.train()
    assert not torch.equal(logits(model, ids), still)
    assert torch.equal(logits(adapted("gpt2", dropout=0.5, random=False).train(), ids), logits(tiny_model(), ids))


def test_the_seed_decides_over_the_draw():
    first, again, other = (dict(adapters(adapted("qwen3", seed=seed, random=False))) for seed in (1, 1, 2))
    assert all(torch.equal(first[name].lora_a, again[name].lora_a) for name in first)
    assert not any(torch.equal(first[name].lora_a, other[name].lora_a) for name in first)


def test_a_random_model_keeps_its_names():
    model = adapted("gpt2")
    randomize(model)
    assert dict(merged_tensors(model)).keys() == tiny_model().state_dict().keys()
