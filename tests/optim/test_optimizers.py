from typing import get_args

import pytest
import torch
from safetensors.torch import load, save

from quillgpt.config.schema import OptimizerName, TrainSettings
from quillgpt.errors import CheckpointError
from quillgpt.model import GPT
from quillgpt.optim.groups import count_values, group_parameters
from quillgpt.optim.optimizers import (
    OPTIMIZERS,
    make_optimizers,
    orthogonalization_dtype,
    remembered_values,
    state_after_a_step,
)
from tiny import CONFIGS, GPT2, QWEN3, random_ids, tiny_model
from tolerances import FLOAT32

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
RATES = {"learning_rate": 1e-2, "muon_learning_rate": 2e-2, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}


def train(model, optimizers, steps):
    """Do numbered steps, each with its own batch and learning rate."""
    for step in steps:
        ids = random_ids(model.config, 4, 9, seed=step)
        (model.loss_sum(ids[:, :-1], ids[:, 1:]) / 32).backward()
        optimizers.set_learning_rate(RATES["learning_rate"] / (1 + step))
        optimizers.step(NO_SCALER)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def settings(optimizer):
    return TrainSettings(optimizer=optimizer, **RATES)


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_stopping_saving_and_going_on_changes_no_bit(name, arch):
    unbroken = tiny_model(CONFIGS[arch])
    train(unbroken, make_optimizers(unbroken, settings(name)), range(6))

    before = tiny_model(CONFIGS[arch])
    optimizers = make_optimizers(before, settings(name))
    train(before, optimizers, range(3))
    saved = save({key: value.contiguous() for key, value in optimizers.state().items()})

    after = GPT(CONFIGS[arch], seed=99).eval()
    after.load_state_dict(before.state_dict())
    resumed = make_optimizers(after, settings(name))
    resumed.load_state(load(saved))
    train(after, resumed, range(3, 6))
    for parameter, expected in weights(unbroken).items():
        assert torch.equal(weights(after)[parameter], expected), parameter


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_moves_and_has_its_state_saved_under_its_name(name):
    model = tiny_model(QWEN3)
    before = weights(model)
    optimizers = make_optimizers(model, settings(name))
    train(model, optimizers, range(1))
    assert all(not torch.equal(before[key], value) for key, value in weights(model).items())
    assert {key.rsplit("/", 1)[0] for key in optimizers.state()} == set(before)


def test_every_name_of_the_setting_has_its_entry():
    assert set(OPTIMIZERS) == set(get_args(OptimizerName))


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_after_a_step_is_known_before_it(name, arch):
    model = tiny_model(CONFIGS[arch])
    expected = state_after_a_step(group_parameters(model), settings(name))
    optimizers = make_optimizers(model, settings(name))
    before = weights(model)
    assert optimizers.state() == {}
    train(model, optimizers, range(1))
    actual = optimizers.state()
    assert {key: (value.shape, value.dtype) for key, value in expected.items()} == {
        key: (value.shape, value.dtype) for key, value in actual.items()
    }
    assert set(remembered_values(group_parameters(model), settings(name))) == set(before)


def test_asking_for_the_state_after_a_step_changes_nothing():
    model = tiny_model(QWEN3)
    before = weights(model)
    optimizers = make_optimizers(model, settings("muon"))
    state_after_a_step(group_parameters(model), settings("muon"))
    assert all(torch.equal(before[name], value) for name, value in weights(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert optimizers.state() == {}


def test_adamw_is_torchs_plain_adamw():
    # without biases: the gradient of a key's bias is 0 but for rounding, which AdamW scales up to full steps
    ours, theirs = tiny_model(bias=False), tiny_model(bias=False)
    train(ours, make_optimizers(ours, settings("adamw")), range(5))

    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
        fused=False,
        foreach=False,
    )
    for step in range(5):
        ids = random_ids(theirs.config, 4, 9, seed=step)
        (theirs.loss_sum(ids[:, :-1], ids[:, 1:]) / 32).backward()
        for group in plain.param_groups:
            group["lr"] = 1e-2 / (1 + step)
        plain.step()
        plain.zero_grad()
    for name, expected in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], expected, **FLOAT32)


def test_muon_gets_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = tiny_model(GPT2)
    muon, adamw = make_optimizers(model, settings("muon")).optimizers
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_muon = {names[p] for group in muon.param_groups for p in group["params"]}
    in_adamw = {names[p] for group in adamw.param_groups for p in group["params"]}
    kinds = ("attention.qkv", "attention.output", "mlp.up", "mlp.down")
    assert in_muon == {f"blocks.{layer}.{kind}.weight" for layer in range(3) for kind in kinds}
    assert in_adamw == set(names.values()) - in_muon


def test_muon_has_the_momentum_and_the_caution_that_are_set():
    changed = settings("muon").model_copy(update={"muon_momentum": 0.7, "cautious_weight_decay": True})
    muon = make_optimizers(tiny_model(GPT2), changed).optimizers[0]
    assert muon.param_groups[0]["momentum"] == 0.7
    assert muon._cautious


def test_muon_takes_steps_of_its_own_rate():
    """Muon's update has singular values near 1, so its size follows from rate and shape alone (weight decay apart)."""
    model = tiny_model(GPT2)
    before = weights(model)
    train(model, make_optimizers(model, settings("muon").model_copy(update={"weight_decay": 0.0})), range(1))
    name = "blocks.0.attention.output.weight"
    spectrum = torch.linalg.svdvals((weights(model)[name] - before[name]) / RATES["muon_learning_rate"])
    assert 0.5 < spectrum.median() < 1.5


def test_every_group_keeps_its_ratio_to_the_learning_rate():
    optimizers = make_optimizers(tiny_model(GPT2), settings("muon"))
    groups = [group for optimizer in optimizers.optimizers for group in optimizer.param_groups]
    optimizers.set_learning_rate(RATES["learning_rate"] / 4)
    assert [group["lr"] for group in groups] == [0.005, 0.0025, 0.0025]
    assert [group["initial_lr"] for group in groups] == [2e-2, 1e-2, 1e-2]


def test_a_learning_rate_of_zero_is_zero_for_every_group():
    still = settings("muon").model_copy(update={"learning_rate": 0.0})
    optimizers = make_optimizers(tiny_model(GPT2), still)
    optimizers.set_learning_rate(0.0)
    assert all(group["lr"] == 0 for optimizer in optimizers.optimizers for group in optimizer.param_groups)


def test_only_matrices_decay():
    model = tiny_model(GPT2)
    before = weights(model)
    optimizers = make_optimizers(model, settings("adamw"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.set_learning_rate(0.5 * RATES["learning_rate"])
    optimizers.step(NO_SCALER)
    for name, after in weights(model).items():
        factor = 1 - 0.5 * 1e-2 * 0.1 if after.ndim >= 2 else 1
        torch.testing.assert_close(after, before[name] * factor, **FLOAT32)
        assert torch.equal(after, before[name]) == (after.ndim < 2), name


def test_a_frozen_parameter_is_in_no_group():
    model = tiny_model(GPT2)
    model.token_embedding.weight.requires_grad_(False)
    groups = group_parameters(model)
    assert list(groups.embeddings) == ["position_embedding.weight"]


def test_an_untied_head_decays_but_is_no_block_matrix():
    groups = group_parameters(tiny_model(QWEN3, tied=False))
    assert set(groups.embeddings) == {"token_embedding.weight", "head.weight"}


@pytest.mark.parametrize(("saved", "asked"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_state_of_another_optimizer_is_refused(saved, asked):
    model = tiny_model()
    optimizers = make_optimizers(model, settings(saved))
    train(model, optimizers, range(1))
    with pytest.raises(CheckpointError, match=r"trained with another optimizer: .*blocks.*--optimizer"):
        make_optimizers(model, settings(asked)).load_state(optimizers.state())


def test_an_incomplete_state_is_refused():
    model = tiny_model()
    optimizers = make_optimizers(model, settings("adamw"))
    train(model, optimizers, range(1))
    state = optimizers.state()
    del state["final_norm.weight/exp_avg"]
    with pytest.raises(CheckpointError, match=r"this optimizer needs final_norm\.weight/exp_avg;"):
        make_optimizers(model, settings("adamw")).load_state(state)


def test_the_state_before_the_first_step_is_empty():
    model = tiny_model()
    assert make_optimizers(model, settings("muon")).state() == {}
    make_optimizers(model, settings("muon")).load_state({})


def test_groups_say_how_large_they_are():
    groups = group_parameters(tiny_model(GPT2, bias=False))
    assert count_values(groups.vectors) == "7 tensors, 224 values"


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", "float32", torch.float32),
        ("cpu", "bfloat16", torch.bfloat16),
        ("cuda", "float32", torch.bfloat16),
        ("cuda", "bfloat16", torch.bfloat16),
    ],
)
def test_muon_orthogonalizes_in_bfloat16_unless_a_run_on_a_cpu_has_chosen_float32(device, dtype, expected):
    assert orthogonalization_dtype(TrainSettings(device=device, dtype=dtype)) == expected
