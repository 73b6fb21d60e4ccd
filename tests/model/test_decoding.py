from dataclasses import replace

import pytest
import torch

from quillgpt.attention import KernelSpec
from quillgpt.config.schema import Sampling
from quillgpt.generation import generate, generate_ids
from quillgpt.model import GPT, KeyValueCache, decoder, for_inference
from quillgpt.model.decoding import FewOperations
from quillgpt.model.inference import packs_bfloat16
from tiny import GPT2, QWEN3, random_ids, tiny_model

needs_onednn = pytest.mark.skipif(not packs_bfloat16(), reason="oneDNN has no bfloat16 on this CPU")


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
    step = decoder(model)
    assert isinstance(step, FewOperations)
    caches = [KeyValueCache(config, batch_size, device=ids.device, dtype=model.cache_dtype) for _ in range(2)]
    with torch.inference_mode():
        for cache in caches:
            model(ids[:, :5], cache)
        for position in range(5, 12):
            token = ids[:, position : position + 1]
            assert torch.equal(step(token, caches[0]), model(token, caches[1]))
    assert caches[0].length == caches[1].length == 12


def test_models_of_other_kinds_compute_their_decode_steps_themselves():
    others = [tiny_model(GPT2), in_bfloat16(QWEN3), in_bfloat16(replace(GPT2, kernel=KernelSpec("GK")))]
    others.append(for_inference(tiny_model(GPT2), torch.float32, quantize="int8"))
    others.append(for_inference(GPT(GPT2, attn_path="explicit").eval(), torch.bfloat16))
    for model in others:
        assert decoder(model) is model


@needs_onednn
def test_samples_are_those_of_the_model(monkeypatch):
    model = in_bfloat16(GPT2)

    def drawn():
        asked = Sampling(num_samples=2, max_new_tokens=50, seed=3)
        return torch.stack(list(generate_ids(model, [1, 2], asked, vocab_size=65)))

    few = drawn()
    monkeypatch.setattr(generate, "decoder", lambda model: model)
    assert torch.equal(drawn(), few)
