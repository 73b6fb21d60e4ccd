import math
from dataclasses import replace

import pytest
import torch

from quillgpt.attention import KernelSpec
from quillgpt.config import resolve
from quillgpt.config.sources import preset_names
from quillgpt.model import ARCHITECTURES, GPT, KeyValueCache, count_parameters, padded_vocab_size
from quillgpt.model.cost import training_flops_per_token
from quillgpt.optim.groups import count_values, group_parameters
from quillgpt.training.start.model_config import config_for
from tiny import CONFIGS, GPT2, QWEN3, random_ids, tiny_model
from tolerances import FLOAT32, FLOAT64


def preset_config(name, tokens):
    """The configuration that training gives a preset from scratch, for a tokenizer with that many tokens."""
    return config_for(resolve(name, {}, environ={}, dotenv=None), "of some name", tokens)


def without_memory(config):
    with torch.device("meta"):
        return GPT(config, seed=None)


def test_shakespeare_char_has_nanogpts_parameters():
    model = without_memory(preset_config("shakespeare_char", 65))
    groups = group_parameters(model)
    assert model.parameter_count(positions=False) == 10_646_784
    assert count_values(groups.decayed) == "26 tensors, 10,740,096 values"
    assert count_values(groups.vectors) == "13 tensors, 4,992 values"


def test_train_gpt2_is_the_124m_model_on_50304_rows():
    model = without_memory(preset_config("train_gpt2", 50257))
    blocks = 12 * (12 * 768**2 + 2 * 768)  # four matrices of 12 C^2 values together, two norms without biases
    assert model.parameter_count() == 50304 * 768 + 1024 * 768 + blocks + 768 == 124_373_760
    assert model.parameter_count(positions=False) == 123_587_328


@pytest.mark.parametrize(("preset", "millions"), [("gpt2_medium", 354), ("gpt2_large", 773), ("gpt2_xl", 1556)])
def test_a_preset_has_the_size_of_its_name(preset, millions):
    count = without_memory(preset_config(preset, 50257)).parameter_count()
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("preset", preset_names())
def test_every_presets_model_can_be_built(preset):
    model = without_memory(preset_config(preset, 50257))
    assert all(parameter.is_meta for parameter in model.parameters())


def test_weights_start_as_gpt2s():
    model = GPT(replace(GPT2, n_embd=128, head_dim=32, mlp_dim=512, n_layer=8), seed=1)
    residual = 0.02 / math.sqrt(2 * 8)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name
            continue
        scale = residual if name.endswith(("attention.output.weight", "mlp.down.weight")) else 0.02
        assert parameter.std().item() == pytest.approx(scale, rel=0.05), name
        assert abs(parameter.mean().item()) < scale / 10, name


def test_with_zero_projections_a_new_block_changes_nothing():
    plain, zero = GPT(QWEN3, seed=1), GPT(QWEN3, seed=1, zero_projections=True)
    x = torch.randn(2, 7, QWEN3.n_embd)
    rotation = zero.rotations.first(7, torch.device("cpu"))
    for before, block in zip(plain.blocks, zero.blocks, strict=True):
        assert torch.equal(block(x, rotation, None), x)
        assert torch.equal(block.attention.qkv.weight, before.attention.qkv.weight)  # the rest is drawn as ever
        assert not torch.equal(before(x, rotation, None), x)


def test_the_seed_decides_the_initial_weights():
    def weight(seed):
        return GPT(GPT2, seed=seed).blocks[1].mlp.up.weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))


def test_a_new_model_expects_every_token_alike():
    ids = random_ids(GPT2, 4, 17)
    loss = GPT(GPT2).loss_sum(ids[:, :-1], ids[:, 1:]) / 64
    assert loss.item() == pytest.approx(math.log(65), abs=0.1)


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("chunks", [[16], [1] * 16, [5, 1, 1, 6, 3], [15, 1]], ids=str)
def test_reading_with_a_cache_equals_reading_at_once(arch, chunks):
    model = tiny_model(CONFIGS[arch])
    ids = random_ids(model.config, 3, 16)
    cache = KeyValueCache(model.config, 3, device=ids.device, dtype=torch.float32)
    with torch.no_grad():
        pieces = [model.logits(model(part, cache)) for part in ids.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), model.logits(model(ids)), **FLOAT32)
    assert cache.length == cache.capacity == 16


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("kept", "error"), [(torch.bfloat16, 0.01), (torch.int8, 0.015)], ids=str)
def test_a_cache_in_fewer_bits_is_off_by_their_rounding(arch, kept, error, fast, monkeypatch):
    monkeypatch.setattr("quillgpt.model.cache.attends_fast_in_bfloat16", lambda: fast)
    model = tiny_model(CONFIGS[arch])
    ids = random_ids(model.config, 3, 16)
    cache = KeyValueCache(model.config, 3, device=ids.device, dtype=kept)
    with torch.no_grad():
        whole = model.logits(model(ids))
        pieces = torch.cat([model.logits(model(part, cache)) for part in ids.split([5, 1, 1, 6, 3], dim=1)], dim=1)
    assert {tensor.dtype for tensor in (*cache.keys, *cache.values)} == {kept}
    assert 0 < (pieces - whole).norm() / whole.norm() < error


@pytest.mark.parametrize("fast", [False, True])
def test_attention_reads_bfloat16_as_it_is_where_that_is_fast(fast, monkeypatch):
    monkeypatch.setattr("quillgpt.model.cache.attends_fast_in_bfloat16", lambda: fast)
    size = (1, GPT2.n_kv_head, 3, GPT2.head_dim)
    given = torch.randn(size), torch.randn(size)
    for config, as_it_is in ((GPT2, fast), (replace(GPT2, kernel=KernelSpec("GK")), False)):
        cache = KeyValueCache(config, 1, device=torch.device("cpu"), dtype=torch.bfloat16)
        for cached, before in zip(cache.extend(1, *given), given, strict=True):
            assert cached.dtype == (torch.bfloat16 if as_it_is else torch.float32)
            assert torch.equal(cached.bfloat16(), before.bfloat16())


def test_keys_and_values_of_8_bits_keep_zeros_and_come_from_their_own_layer():
    cache = KeyValueCache(GPT2, 1, device=torch.device("cpu"), dtype=torch.int8)
    size = (1, GPT2.n_kv_head, 3, GPT2.head_dim)
    torch.manual_seed(0)
    given = [(torch.randn(size) * 100, torch.randn(size) / 100) for _ in range(GPT2.n_layer)]
    given[1][0][:, :, 1] = 0
    for layer, (keys, values) in enumerate(given):
        cache.extend(layer, keys, values)
    cache.advance(3)
    nothing = torch.zeros(1, GPT2.n_kv_head, 1, GPT2.head_dim)
    for layer, kept in enumerate(given):
        for cached, before in zip(cache.extend(layer, nothing, nothing), kept, strict=True):
            steps = before.abs().amax(-1, keepdim=True) / 127
            assert cached.dtype == torch.float32
            assert cached[:, :, 3].eq(0).all()
            assert ((cached[:, :, :3] - before).abs() <= steps * 0.501).all()


def test_a_cleared_cache_remembers_nothing():
    model = tiny_model(QWEN3)
    cache = KeyValueCache(model.config, 1, device=torch.device("cpu"), dtype=torch.float32)
    ids = random_ids(model.config, 1, 8)
    with torch.no_grad():
        model(random_ids(model.config, 1, 8, seed=1), cache)
        cache.clear()
        torch.testing.assert_close(model(ids, cache), model(ids), **FLOAT32)


@pytest.mark.parametrize("arch", CONFIGS)
def test_the_attention_paths_give_the_same_model(arch):
    one = tiny_model(CONFIGS[arch]).double()
    other = GPT(CONFIGS[arch], attn_path="explicit").eval().double()
    other.load_state_dict(one.state_dict())
    ids = random_ids(one.config, 2, 16)
    torch.testing.assert_close(one(ids), other(ids), **FLOAT64)


@pytest.mark.parametrize("arch", CONFIGS)
def test_no_position_sees_the_future(arch):
    model = tiny_model(CONFIGS[arch])
    ids = random_ids(model.config, 1, 16)
    changed = ids.clone()
    changed[:, 9] = (ids[:, 9] + 1) % 65
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert (before[:, 9:] - after[:, 9:]).abs().amax(-1).min() > 1e-4


def test_losses_of_parts_add_up_to_the_batchs():
    model = tiny_model().double()
    ids = random_ids(model.config, 6, 17)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    parts = sum(model.loss_sum(inputs[part], targets[part]) for part in (slice(0, 1), slice(1, 6)))
    torch.testing.assert_close(parts, model.loss_sum(inputs, targets), **FLOAT32)


@pytest.mark.parametrize("arch", CONFIGS)
def test_dropout_is_on_in_training_only(arch):
    model = GPT(CONFIGS[arch], dropout=0.5)
    ids = random_ids(model.config, 1, 16)
    assert not torch.equal(model.train()(ids), model(ids))
    assert torch.equal(model.eval()(ids), model(ids))


def test_a_tied_head_is_the_embedding_and_counts_once():
    tied, untied = tiny_model(QWEN3), tiny_model(QWEN3, tied=False)
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.parameter_count() - tied.parameter_count() == 65 * 32


def test_a_qwen3_block_costs_about_as_much_as_a_gpt2_block():
    assert ARCHITECTURES["gpt2"].mlp_dim(768) == 3072
    assert ARCHITECTURES["qwen3"].mlp_dim(768) == 2048
    assert ARCHITECTURES["qwen3"].mlp_dim(100) == 320


@pytest.mark.parametrize(("tokens", "rows"), [(65, 65), (1000, 1000), (1001, 1024), (50257, 50304), (50304, 50304)])
def test_large_vocabularies_are_padded_to_64(tokens, rows):
    assert padded_vocab_size(tokens) == rows


def test_training_flops_are_nanogpts_estimate():
    config = preset_config("train_gpt2", 50257)
    assert training_flops_per_token(config, 123_587_328) == 6 * 123_587_328 + 12 * 12 * 12 * 64 * 1024


def test_an_embedding_that_is_only_read_costs_no_operations():
    tied = preset_config("train_gpt2", 50257)
    untied = replace(tied, tied=False)
    parameters = [count_parameters(config, positions=False) for config in (tied, untied)]
    assert parameters[1] - parameters[0] == 50304 * 768
    assert training_flops_per_token(untied, parameters[1]) == training_flops_per_token(tied, parameters[0])


def test_a_head_of_its_own_begins_without_an_opinion_where_projections_begin_at_zero():
    model = GPT(replace(QWEN3, tied=False), zero_projections=True)
    logits = model.logits(model(random_ids(QWEN3, 2, 8))).detach()
    assert torch.equal(logits, torch.zeros_like(logits))
    assert model.token_embedding.weight.detach().std() == pytest.approx(0.02, rel=0.1)
