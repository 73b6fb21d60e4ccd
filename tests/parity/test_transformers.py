"""Our models are transformers' models: same weights, same logits, same loss, same text, in both directions."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from quillgpt.checkpoint import load_model, save_model
from quillgpt.config.schema import Sampling
from quillgpt.data.batches import all_offsets
from quillgpt.evaluation import Windows, mean_loss, score_windows
from quillgpt.generation import generate_ids
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import CONFIGS, GPT2, QWEN3, random_ids, randomize, tiny_model
from tolerances import EXACT, FLOAT32

CHARACTERS = CharTokenizer("".join(chr(code) for code in range(32, 97)))  # 65, as the tiny shapes have rows

VARIANTS = {
    "gpt2, OpenAI's": (GPT2, {}),
    "gpt2, nanoGPT's": (GPT2, {"bias": False, "activation": "gelu"}),
    "gpt2, untied, narrow": (GPT2, {"tied": False, "mlp_dim": 48, "norm_eps": 1e-3}),
    "qwen3, grouped heads": (QWEN3, {}),
    "qwen3, one head each": (QWEN3, {"n_kv_head": 4, "head_dim": 8}),
    "qwen3, untied": (QWEN3, {"tied": False, "rope_theta": 500.0, "norm_eps": 1e-3}),
}


@pytest.fixture(params=VARIANTS)
def ours(request):
    config, changes = VARIANTS[request.param]
    return tiny_model(config, **changes)


def logits(model, ids):
    with torch.no_grad():
        return model.logits(model(ids)) if hasattr(model, "logits") else model(ids).logits


def saved(model, folder, tokenizer=CHARACTERS):
    save_model(folder, model, tokenizer, about={})
    return folder


def opened(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model.eval()


def test_transformers_gives_our_logits(ours, tmp_path):
    theirs = opened(saved(ours, tmp_path))
    assert type(theirs) is {"gpt2": GPT2LMHeadModel, "qwen3": Qwen3ForCausalLM}[ours.config.arch]
    ids = random_ids(ours.config, 3, 16)
    assert logits(ours, ids).std() > 0.3  # weights large enough for a mistake to show
    torch.testing.assert_close(logits(theirs, ids), logits(ours, ids), **FLOAT32)


def test_what_transformers_writes_again_is_our_model(ours, tmp_path):
    opened(saved(ours, tmp_path / "ours")).save_pretrained(tmp_path / "theirs")
    CHARACTERS.save(tmp_path / "theirs")
    back = load_model(tmp_path / "theirs").model
    assert back.config == ours.config
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, **EXACT)


GPT2_SIZES = {"vocab_size": 65, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
QWEN3_SIZES = {
    "vocab_size": 65,
    "max_position_embeddings": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}

THEIRS = {
    "gpt2": GPT2Config(**GPT2_SIZES),
    "gpt2, erf": GPT2Config(**GPT2_SIZES, activation_function="gelu", n_inner=40, layer_norm_epsilon=1e-3),
    "gpt2, untied": GPT2Config(**GPT2_SIZES, tie_word_embeddings=False),
    "qwen3": Qwen3Config(**QWEN3_SIZES, num_key_value_heads=2, head_dim=12),
    "qwen3, tied": Qwen3Config(**QWEN3_SIZES, num_key_value_heads=4, head_dim=8, tie_word_embeddings=True),
    "qwen3, long waves": Qwen3Config(
        **QWEN3_SIZES,
        num_key_value_heads=1,
        head_dim=10,
        rms_norm_eps=1e-3,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
}


@pytest.fixture(params=THEIRS)
def theirs(request):
    model = AutoModelForCausalLM.from_config(THEIRS[request.param]).eval()
    randomize(model)
    return model


def test_we_give_transformers_logits(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    CHARACTERS.save(tmp_path)
    ours = load_model(tmp_path).model
    ids = random_ids(ours.config, 3, 16)
    torch.testing.assert_close(logits(ours, ids), logits(theirs, ids), **FLOAT32)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_folder_in_several_files_loads(name, tmp_path):
    theirs = AutoModelForCausalLM.from_config(THEIRS[name]).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    CHARACTERS.save(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ids = random_ids(GPT2, 2, 16)
    torch.testing.assert_close(logits(load_model(tmp_path).model, ids), logits(theirs, ids), **FLOAT32)


def test_a_folder_in_bfloat16_loads(tmp_path):
    theirs = AutoModelForCausalLM.from_config(THEIRS["gpt2"]).bfloat16().eval()
    theirs.save_pretrained(tmp_path)
    CHARACTERS.save(tmp_path)
    ours = load_model(tmp_path).model
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    ids = random_ids(GPT2, 2, 16)
    torch.testing.assert_close(logits(ours, ids), logits(theirs.float(), ids), **FLOAT32)


def test_a_folder_as_openai_published_it_loads(tmp_path):
    """Tensors without `transformer.`, with the constant masks of old versions, and a config of its time."""
    theirs = GPT2LMHeadModel(THEIRS["gpt2"]).eval()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    CHARACTERS.save(tmp_path)
    tensors = {k.removeprefix("transformer."): v for k, v in load_file(tmp_path / "model.safetensors").items()}
    for layer in range(2):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
    save_file(tensors, tmp_path / "model.safetensors")
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 16,
        "resid_pdrop": 0.1,
        "summary_type": "cls_index",
        **GPT2_SIZES,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    ids = random_ids(GPT2, 2, 16)
    torch.testing.assert_close(logits(load_model(tmp_path).model, ids), logits(theirs, ids), **FLOAT32)


def greedy(model, prompt, count, vocab_size):
    sampling = Sampling(temperature=0, num_samples=1, max_new_tokens=count)
    steps = generate_ids(model, prompt, sampling, vocab_size=vocab_size)
    return [int(step) for step in steps]


@pytest.mark.parametrize("arch", CONFIGS)
def test_greedy_text_is_transformers_greedy_text(arch, tmp_path):
    model = tiny_model(CONFIGS[arch], block_size=64)
    theirs = opened(saved(model, tmp_path))
    prompt = [5, 40, 2]
    expected = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 3), max_new_tokens=60, do_sample=False, pad_token_id=0
    )
    assert greedy(model, prompt, 60, 65) == expected[0, 3:].tolist()


@torch.no_grad()
def test_rows_without_a_token_are_sampled_in_neither(tmp_path):
    model = tiny_model(GPT2, vocab_size=70, block_size=64, tied=False)
    model.final_norm.weight.zero_()  # the logits are then what the head makes of a constant: the padded rows win
    model.final_norm.bias.fill_(1)
    model.head.weight[65:] = 5
    theirs = opened(saved(model, tmp_path))
    prompt = torch.tensor([[1, 2]])
    assert logits(theirs, prompt)[0, -1].argmax() >= 65
    written = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, pad_token_id=0
    )
    assert written[0, 2:].tolist() == greedy(model, [1, 2], 8, CHARACTERS.vocab_size)
    assert written.max() < 65


@pytest.mark.parametrize("arch", CONFIGS)
def test_loss_is_transformers_loss_on_the_same_blocks(arch, tmp_path):
    model = tiny_model(CONFIGS[arch])
    theirs = opened(saved(model, tmp_path))
    tokens = random_ids(model.config, 1, 16 * 5 + 9)[0].numpy().astype(np.uint16)
    blocks = torch.from_numpy(tokens.astype(np.int64))
    with torch.no_grad():
        inputs, targets = blocks[:80].view(5, 16), blocks[1:81].view(5, 16)
        expected = theirs(inputs, labels=targets, shift_labels=targets).loss.item()
    ours = mean_loss(model, tokens, all_offsets(len(tokens), 16), batch_size=2)
    assert ours == pytest.approx(expected, rel=1e-5)


def perplexity_recipe(model, tokens, max_length, stride):
    """transformers' recipe for the perplexity of models of a fixed length, with every label counted once."""
    total, labels, before = 0.0, 0, 0
    for begin in range(0, tokens.shape[1], stride):
        end = min(begin + max_length, tokens.shape[1])
        inputs = tokens[:, begin:end]
        targets = inputs.clone()
        targets[:, : before - end] = -100  # those of earlier windows
        counted = int((targets[:, 1:] != -100).sum())
        with torch.no_grad():
            total += model(inputs, labels=targets).loss.double().item() * counted
        labels, before = labels + counted, end
        if end == tokens.shape[1]:
            break
    return total / labels, labels


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("count", [9, 16, 17, 73])
@pytest.mark.parametrize("stride", [1, 4, 7, 15])
def test_the_loss_with_a_stride_is_that_of_transformers_recipe(arch, count, stride, tmp_path):
    model = tiny_model(CONFIGS[arch])
    theirs = opened(saved(model, tmp_path))
    ids = random_ids(model.config, 1, count)
    # A window of the recipe has 16 tokens, of which the model predicts 15.
    expected, labels = perplexity_recipe(theirs, ids, max_length=16, stride=stride)
    tokens = ids[0].numpy().astype(np.uint16)
    score = score_windows(model, CHARACTERS, tokens, Windows(count, 15, stride), batch_size=3)
    assert score.tokens == labels == count - 1
    assert score.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tokenizer", [CHARACTERS, ByteTokenizer()], ids=lambda tokenizer: tokenizer.name)
def test_transformers_tokenizer_of_a_checkpoint_gives_our_ids_and_text(tokenizer, tmp_path):
    folder = saved(tiny_model(GPT2, vocab_size=tokenizer.vocab_size), tmp_path, tokenizer)
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ("HELLO, WORLD!  ", "  A  B ", "2 + 2 = 4 ?"):
        ids = tokenizer.encode(text).tolist()
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == text
        assert load_model(folder).tokenizer.encode(text).tolist() == ids


def test_config_json_raises_no_warning_in_transformers(tmp_path, caplog):
    transformers.logging.enable_propagation()
    with caplog.at_level("WARNING"):
        opened(saved(tiny_model(QWEN3), tmp_path)).generate(
            torch.tensor([[1]]), attention_mask=torch.ones(1, 1), max_new_tokens=2, pad_token_id=0
        )
    transformers.logging.disable_propagation()
    assert caplog.text == ""
