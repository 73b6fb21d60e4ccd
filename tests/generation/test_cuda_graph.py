import pytest
import torch

from quillgpt.config.schema import Sampling
from quillgpt.generation import generate_ids
from quillgpt.generation.cuda_graph import CudaGraphDecoder
from quillgpt.generation.generate import TokenGenerator
from quillgpt.generation.samplers import candidates, draw_tokens
from quillgpt.model import KeyValueCache
from quillgpt.model.cache import OnePositionCache
from tiny import CONFIGS, random_ids, tiny_model
from tolerances import FLOAT32

WARM = Sampling(temperature=1.0, top_k=40)


def chosen(model, prompt, steps, *, one_graph, window="half"):
    """Ids that are chosen, (B, steps)."""
    uniforms = torch.rand(steps, len(prompt), generator=torch.Generator().manual_seed(0))
    generator = TokenGenerator(
        model, prompt, steps, window, lambda logits, u: draw_tokens(*candidates(logits, WARM), u), one_graph=one_graph
    )
    with torch.inference_mode():
        return torch.stack([generator.next_tokens(row) for row in uniforms], dim=1)


@pytest.mark.parametrize("window", ["half", "exact"])
@pytest.mark.parametrize("length", [1, 5, 16, 20])
@pytest.mark.parametrize("arch", CONFIGS)
def test_steps_on_fixed_memory_choose_the_same_tokens(arch, length, window):
    model = tiny_model(CONFIGS[arch])
    prompt = random_ids(model.config, 3, length)
    expected = chosen(model, prompt, 50, one_graph=False, window=window)
    assert torch.equal(chosen(model, prompt, 50, one_graph=True, window=window), expected)


def test_a_device_that_cannot_record_goes_on_without(monkeypatch, capsys):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def begin(step, *arguments):
        begun(step, *arguments)
        step._recording = True  # as on a GPU

    begun = CudaGraphDecoder.__init__
    monkeypatch.setattr(CudaGraphDecoder, "__init__", begin)
    monkeypatch.setattr(CudaGraphDecoder, "_record", refuse)
    model = tiny_model()
    prompt = random_ids(model.config, 3, 5)
    expected = chosen(model, prompt, 20, one_graph=False)
    assert torch.equal(chosen(model, prompt, 20, one_graph=True), expected)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be recorded as a CUDA graph (operation not permitted when stream is capturing);") == 1


@pytest.mark.parametrize("attn_path", ["sdpa", "explicit"])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_position_on_the_device_is_a_position(arch, attn_path):
    model = type(tiny_model())(CONFIGS[arch], attn_path=attn_path).eval()
    model.load_state_dict(tiny_model(CONFIGS[arch]).state_dict())
    ids = random_ids(model.config, 2, 9)
    options = {"device": ids.device, "dtype": torch.float32}
    with torch.no_grad():
        whole = model(ids)
        cache = KeyValueCache(model.config, 2, **options)
        at = OnePositionCache(cache)
        model(ids[:, :4], cache)
        for position in range(4, 9):
            at.position.fill_(position)
            torch.testing.assert_close(model(ids[:, position : position + 1], at)[:, 0], whole[:, position], **FLOAT32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", ["half", "exact"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_a_recorded_step_draws_what_a_cpu_draws(penalty, window):
    model = tiny_model(n_embd=64, head_dim=16).double()  # so that no rounding decides
    settings = Sampling(
        temperature=0.9, num_samples=3, max_new_tokens=60, seed=5, repetition_penalty=penalty, window=window
    )
    expected = torch.stack(list(generate_ids(model, [1, 2], settings, vocab_size=65)))
    drawn = torch.stack(list(generate_ids(model.to("cuda"), [1, 2], settings, vocab_size=65)))
    assert torch.equal(drawn, expected)
