from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from quillgpt.attention import KernelSpec
from quillgpt.config.schema import Sampling
from quillgpt.errors import CheckpointError
from quillgpt.generation import generate_ids
from quillgpt.generation.decoding_threads import with_threads
from quillgpt.model import GPT, KeyValueCache, add_adapters, decode_step, for_inference
from quillgpt.model.decoding import FewOperations
from quillgpt.model.inference import Int8Linear, packs_bfloat16
from quillgpt.model.native_step import NativeStep
from quillgpt.native import decoding_kernels
from tiny import GPT2, QWEN3, random_ids, tiny_model

needs_kernel = pytest.mark.skipif(decoding_kernels() is None, reason="there is no C++ compiler here")
needs_onednn = pytest.mark.skipif(not packs_bfloat16(), reason="oneDNN has no bfloat16 on this CPU")


def cache_of(model, batch_size):
    return KeyValueCache(model.config, batch_size, device=model.device, dtype=model.cache_dtype)


def lively_model(config):
    """Return a model whose weights are large enough that attention and MLP matter."""
    model = tiny_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
            parameter.div_(parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else 1)
    return model


@torch.inference_mode()
def steps_of(step, model, caches, ids):
    """Return the logits of decode steps after a prompt, and those of the model, each with a cache of its own."""
    for cache in caches:
        model(ids[:, :5], cache)
    tokens = [ids[:, position : position + 1] for position in range(5, ids.shape[1])]
    return [(step(token), model.logits(model(token, caches[1])[:, -1])) for token in tokens]


def linear_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, Int8Linear))]


def in_8_bits(config):
    return for_inference(lively_model(config), torch.float32, quantize="int8")


def in_bfloat16(config):
    return for_inference(tiny_model(config), torch.bfloat16)


@needs_onednn
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "config", [GPT2, replace(GPT2, bias=True, activation="gelu_new"), replace(GPT2, n_head=4, n_kv_head=2, head_dim=8)]
)
def test_a_decode_step_in_few_operations_gives_the_bits_of_the_model(config, batch_size, fast, monkeypatch):
    monkeypatch.setattr("quillgpt.model.cache.attends_fast_in_bfloat16", lambda: fast)
    model, ids = in_bfloat16(config), random_ids(config, batch_size, 12)
    caches = [cache_of(model, batch_size) for _ in range(2)]
    step = decode_step(model, caches[0])
    assert isinstance(step, FewOperations)
    for logits, expected in steps_of(step, model, caches, ids):
        assert torch.equal(logits, expected)
    assert caches[0].length == caches[1].length == 12


CONFIGS = [
    GPT2,
    QWEN3,
    replace(GPT2, bias=True, activation="gelu_new", n_embd=28, n_head=4, n_kv_head=2, head_dim=7, mlp_dim=33),
    replace(QWEN3, n_head=4, n_kv_head=1, head_dim=36, vocab_size=61, tied=False),
]


@needs_kernel
@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("config", CONFIGS)
def test_the_kernel_gives_the_logits_of_the_model(config, batch_size):
    model, ids = lively_model(config), random_ids(config, batch_size, 16)
    caches = [cache_of(model, batch_size) for _ in range(2)]
    step = decode_step(model, caches[0])
    assert isinstance(step, NativeStep)
    for logits, expected in steps_of(step, model, caches, ids):
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert caches[0].length == 16
    for kept, expected in zip(caches[0].copy_of_filled(), caches[1].copy_of_filled(), strict=True):
        torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("config", CONFIGS)
def test_the_kernel_multiplies_with_weights_of_8_bits(config):
    """Compare with a model in float32 whose weights are what the 8 bits stand for."""
    model, ids = in_8_bits(config), random_ids(config, 2, 16)
    wide = lively_model(config)
    with torch.no_grad():
        head = wide.head.weight = nn.Parameter(wide.head.weight.clone())
        for layer, narrow in zip(linear_layers(wide), linear_layers(model), strict=True):
            layer.weight.copy_(narrow.weight * narrow.scales[:, None])
    assert head is wide.head.weight
    caches = [cache_of(model, 2), KeyValueCache(config, 2, device=ids.device, dtype=torch.int8)]
    step = decode_step(model, caches[0])
    assert isinstance(step, NativeStep)
    for logits, expected in steps_of(step, wide, caches, ids):
        # Where a key is halfway between two of the 127 steps, rounding may take the other one.
        assert (logits - expected).abs().max() < 0.01 * expected.std()
    for kept, expected in zip(caches[0].copy_of_filled(), caches[1].copy_of_filled(), strict=True):
        assert (kept.float() - expected.float()).abs().max() <= 1


@needs_kernel
@pytest.mark.parametrize("make", [lambda config: lively_model(config), lambda config: in_8_bits(config)])
@pytest.mark.parametrize("config", [GPT2, QWEN3])
def test_the_kernels_bits_depend_on_no_threads_and_no_other_sequence(config, make):
    model, ids = make(config), random_ids(config, 5, 12)

    def logits(ids, threads):
        cache = cache_of(model, len(ids))
        step = decode_step(model, cache)
        with torch.inference_mode():
            return torch.stack([with_threads(threads, partial(step, ids[:, at : at + 1])) for at in range(12)])

    expected = logits(ids, 1)
    assert torch.equal(logits(ids, 2), expected)
    assert torch.equal(logits(ids, 7), expected)
    for b in range(5):
        assert torch.equal(logits(ids[b : b + 1], 2), expected[:, b : b + 1])


@needs_kernel
def test_a_weight_that_is_not_a_number_is_noticed_by_the_kernel():
    model = lively_model(GPT2)
    with torch.no_grad():
        model.blocks[0].mlp.down.weight[3, 5] = torch.nan
    with pytest.raises(CheckpointError, match="the model's logits are NaN"):
        list(generate_ids(model, [1, 2], Sampling(max_new_tokens=3), vocab_size=65))


def test_models_of_other_kinds_compute_their_decode_steps_themselves():
    with_adapters = tiny_model(GPT2)
    add_adapters(with_adapters, rank=2, alpha=4, dropout=0.0, seed=0)
    without_softmax = replace(GPT2, kernel=KernelSpec("GK"))
    others = [with_adapters, tiny_model(without_softmax), in_bfloat16(without_softmax), in_bfloat16(QWEN3)]
    others.append(for_inference(GPT(GPT2, attn_path="explicit").eval(), torch.bfloat16))
    for model in others:
        step = decode_step(model, cache_of(model, 1))
        assert not isinstance(step, (FewOperations, NativeStep))
        with torch.inference_mode():
            expected = model.logits(model(torch.tensor([[1]]), cache_of(model, 1))[:, -1])
            assert torch.equal(step(torch.tensor([[1]])), expected)


def test_without_a_compiler_models_compute_their_decode_steps_themselves(monkeypatch):
    monkeypatch.setattr("quillgpt.model.native_step.decoding_kernels", lambda: None)
    model = tiny_model(GPT2)
    assert not isinstance(decode_step(model, cache_of(model, 1)), NativeStep)


@needs_onednn
def test_samples_are_those_of_the_model(monkeypatch):
    model = in_bfloat16(GPT2)

    def drawn():
        asked = Sampling(num_samples=2, max_new_tokens=50, seed=3)
        return torch.stack(list(generate_ids(model, [1, 2], asked, vocab_size=65)))

    few = drawn()
    monkeypatch.setattr("quillgpt.model.decoding.has_packed_parts", lambda _: False)
    assert torch.equal(drawn(), few)
