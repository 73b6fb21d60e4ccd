import itertools

import pytest
import torch

from quillgpt.config.schema import Sampling
from quillgpt.errors import CheckpointError
from quillgpt.generation import generate_ids
from quillgpt.generation.generate import LastPrompt
from quillgpt.generation.samplers import candidates, draw_tokens, penalize_repetition, uniforms_of_samples
from quillgpt.model import for_inference
from tiny import CONFIGS, GPT2, tiny_model

WARM = Sampling(temperature=1.0, top_k=40)


def generated(model, prompt, steps, *, num_samples=1, sampling=WARM, seed=0, vocab_size=65, window="half"):
    """Ids of each sample, [num_samples][steps]."""
    asked = {"num_samples": num_samples, "max_new_tokens": steps, "seed": seed, "window": window}
    tokens = generate_ids(model, prompt, sampling.model_copy(update=asked), vocab_size=vocab_size)
    return torch.stack(list(tokens), dim=1).tolist()


def recomputed(model, prompt, steps, *, sampling=WARM, seed=0, window="half"):
    """Sample 0 without a cache: every token from the whole window, computed from scratch."""
    block_size = model.config.block_size
    ids, start = list(prompt), max(0, len(prompt) - block_size)
    uniforms = uniforms_of_samples(seed, [0], torch.device("cpu"))
    for _ in range(steps):
        if len(ids) - start > block_size:
            start = len(ids) - (max(1, block_size // 2) if window == "half" else block_size)
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([ids[start:]])))[:, -1]
        seen = torch.zeros(1, 65, dtype=torch.bool)
        seen[:, ids] = True
        if sampling.repetition_penalty != 1:
            logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
        ids.append(int(draw_tokens(*candidates(logits, sampling), next(uniforms))))
    return ids[len(prompt) :]


PROMPTS = {"short": 3, "as long as the block": 16, "longer than the block": 41}


@pytest.mark.parametrize("window", ["half", "exact"])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("arch", CONFIGS)
def test_cached_text_is_recomputed_text_far_beyond_the_block(arch, prompt, window):
    model = tiny_model(CONFIGS[arch])
    prompt = [(7 * i + 3) % 65 for i in range(PROMPTS[prompt])]
    assert generated(model, prompt, 60, window=window)[0] == recomputed(model, prompt, 60, window=window)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_samples_may_have_prompts_of_their_own(penalty):
    model, prompts = tiny_model(), [[1, 2, 3], [64, 0, 9]]
    sampling = WARM.model_copy(update={"max_new_tokens": 30, "repetition_penalty": penalty, "seed": 0})
    together = torch.stack(list(generate_ids(model, prompts, sampling, vocab_size=65, samples=[0, 0])), dim=1)
    assert together.tolist() == [recomputed(model, prompt, 30, sampling=sampling) for prompt in prompts]


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_the_smallest_blocks_generate_too(block_size):
    model = tiny_model(GPT2, block_size=block_size)
    assert generated(model, [1, 2], 12)[0] == recomputed(model, [1, 2], 12)


def test_the_windows_differ_once_the_block_is_full():
    model = tiny_model()
    half, exact = (generated(model, [1], 60, window=window)[0] for window in ("half", "exact"))
    assert half[:16] == exact[:16]
    assert half != exact


def test_repetition_penalty_counts_prompt_and_sample():
    model, prompt = tiny_model(), [5, 9, 11]
    free, strict = Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=1000.0)
    ids = generated(model, prompt, 30, sampling=strict)[0]
    assert ids == recomputed(model, prompt, 30, sampling=strict)
    assert len({*prompt, *ids}) == 33
    assert len({*prompt, *generated(model, prompt, 30, sampling=free)[0]}) < 33


@pytest.mark.parametrize("arch", CONFIGS)
def test_a_sample_does_not_depend_on_how_many_are_drawn(arch):
    model = tiny_model(CONFIGS[arch])
    alone = generated(model, [4, 8], 40)
    two = generated(model, [4, 8], 40, num_samples=2)
    five = generated(model, [4, 8], 40, num_samples=5)
    assert alone == two[:1] == five[:1]
    assert two == five[:2]
    assert len({tuple(sample) for sample in five}) == 5


@pytest.mark.parametrize("quantize", ["none", "int8"])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_sample_with_weights_of_16_or_8_bits_does_not_depend_on_how_many_are_drawn(arch, quantize):
    model = for_inference(tiny_model(CONFIGS[arch]), torch.bfloat16, quantize=quantize)
    ten = generated(model, [4, 8], 40, num_samples=10)
    assert generated(model, [4, 8], 40) == ten[:1]
    assert generated(model, [4, 8], 40, num_samples=3) == ten[:3]


def test_a_short_sample_is_the_beginning_of_a_long_one():
    model = tiny_model()
    assert generated(model, [4, 8], 100)[0][:5] == generated(model, [4, 8], 5)[0]


def test_the_seed_decides():
    model = tiny_model()
    assert generated(model, [1], 20, seed=7) == generated(model, [1], 20, seed=7)
    assert generated(model, [1], 20, seed=7) != generated(model, [1], 20, seed=8)


@torch.no_grad()
def test_ids_without_a_token_are_never_chosen():
    model = tiny_model(GPT2, tied=False)
    model.head.weight[60:] *= 30
    assert max(generated(model, [1], 100, vocab_size=65)[0]) >= 60
    for sampling in (WARM, Sampling(temperature=0), Sampling(temperature=2.0, top_k=None)):
        assert max(generated(model, [1], 100, vocab_size=60, sampling=sampling)[0]) < 60


def test_tokens_come_one_by_one_and_generation_stops_when_nobody_asks(computed_steps):
    steps = generate_ids(tiny_model(), [1], Sampling(num_samples=3, max_new_tokens=100), vocab_size=65)
    assert [len(step) for step in itertools.islice(steps, 4)] == [3] * 4
    assert len(computed_steps) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_model_with_nan_is_named_as_such(temperature, penalty):
    model = tiny_model(GPT2)
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 2] = float("nan")
    sampling = Sampling(num_samples=2, max_new_tokens=5, temperature=temperature, repetition_penalty=penalty)
    with pytest.raises(CheckpointError, match="a weight is NaN, or too large"):
        list(generate_ids(model, [1, 2, 3], sampling, vocab_size=65))


def test_presence_and_frequency_penalties_count_the_sample_and_not_the_prompt():
    model, prompt = tiny_model(GPT2), [1, 2, 3]
    sampling = Sampling(temperature=0, presence_penalty=0.4, frequency_penalty=0.3)
    ids, counts = [], torch.zeros(65)
    for _ in range(12):
        with torch.no_grad():
            logits = model.logits(model(torch.tensor([prompt + ids])))[0, -1]
        ids.append(int((logits - 0.3 * counts - 0.4 * (counts > 0)).argmax()))
        counts[ids[-1]] += 1
    assert generated(model, prompt, 12, sampling=sampling) == [ids]
    assert counts.max() > 1
    assert generated(model, prompt, 12, sampling=Sampling(temperature=0)) != [ids]


def test_a_bias_is_added_to_the_logits_and_not_to_what_is_listened_to():
    model, heard = tiny_model(GPT2), []
    bias = torch.zeros(65)
    bias[7] = 100.0
    sampling = Sampling(num_samples=2, max_new_tokens=3, temperature=1.0)
    ids = generate_ids(
        model, [1], sampling, vocab_size=65, bias=bias, on_logits=lambda logits, ids: heard.append((logits, ids))
    )
    assert torch.stack([*ids]).tolist() == [[7, 7]] * 3
    with torch.no_grad():
        torch.testing.assert_close(heard[0][0][0], model.logits(model(torch.tensor([[1]])))[0, -1])
    assert heard[0][1].tolist() == [7, 7]


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_prompt_that_comes_again_is_not_computed_again(arch, cache_dtype, monkeypatch):
    model, kept, passes = tiny_model(CONFIGS[arch]), LastPrompt(), []
    monkeypatch.setattr(type(model), "cache_dtype", cache_dtype)
    model.register_forward_hook(lambda _, given, __: passes.append(given[0].shape[1]))

    def drawn(prompt, last_prompt, count, seed, steps):
        sampling = Sampling(num_samples=count, temperature=1.0, seed=seed, max_new_tokens=steps)
        ids = generate_ids(model, prompt, sampling, vocab_size=model.config.vocab_size, last_prompt=last_prompt)
        return torch.stack([*ids]).tolist()

    for asked in (([1, 2, 3], 2, 0, 9), ([1, 2, 3], 2, 1, 4), ([1, 2, 4], 2, 1, 4), ([1, 2, 3], 3, 1, 4)):
        prompt, *rest = asked
        assert drawn(prompt, kept, *rest) == drawn(prompt, None, *rest)
    assert passes.count(3) == 4 + 3  # all without, and all but one with what is kept
