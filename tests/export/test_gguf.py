"""GGUF files, read by the gguf package, by transformers, and by llama.cpp if it is installed."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from dataclasses import replace

import gguf
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exported import TEXT, TOKENIZERS, saved
from quillgpt.checkpoint import load_model, save_model
from quillgpt.cli import main
from quillgpt.errors import CheckpointError
from quillgpt.export import export_model
from quillgpt.export.byte_level import byte_level
from quillgpt.export.gguf import write
from quillgpt.export.probe import make_probe
from quillgpt.export.silence import with_silent_token
from quillgpt.model import GPT
from quillgpt.text.tokenizers.byte_alphabet import spell_bytes
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.tokenizer_json import HuggingFaceTokenizer
from tiny import CONFIGS, GPT2, QWEN3, tiny_model

ALL_TOKENIZERS = [pytest.param(name, marks=pytest.mark.download if name == "gpt2" else ()) for name in TOKENIZERS]


def calm(folder, arch: str, tokenizer: str, **changes):
    """Return a random model whose weights are small enough for 8 bits, as those of trained models are."""
    config = replace(CONFIGS[arch], n_embd=64, head_dim=16, mlp_dim=128, **changes)
    loaded = saved(folder / "random", config, tokenizer)
    model = loaded.model
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 0.25
    save_model(folder / "model", model, loaded.tokenizer, about={})
    return load_model(folder / "model")


def tensors_of(path) -> dict[str, torch.Tensor]:
    """Read a file's tensors, in float32."""
    return {
        tensor.name: torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.llama
@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("number_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("tokenizer", ALL_TOKENIZERS)
@pytest.mark.parametrize("arch", CONFIGS)
def test_llama_cpp_does_the_same(tmp_path, arch, tokenizer, number_type):
    certificate = export_model(calm(tmp_path, arch, tokenizer), "gguf", tmp_path / "out", number_type=number_type)
    assert {check.result for check in certificate.checks} == {"passed"}
    assert certificate.runtime.startswith("llama-cpp-python ")


@pytest.mark.parametrize("number_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", CONFIGS)
def test_the_file_holds_the_model(tmp_path, arch, tied, number_type):
    loaded = calm(tmp_path, arch, "byte", tied=tied)
    write(loaded, tmp_path / "out", number_type)
    written, state = tensors_of(tmp_path / "out" / "model.gguf"), loaded.model.state_dict()
    query, gate = ("attn_qkv", "ffn_up") if arch == "gpt2" else ("attn_q", "ffn_gate")
    expected = {
        "token_embd.weight": state["token_embedding.weight"][:257],
        f"blk.1.{query}.weight": state["blocks.1.attention.qkv.weight"],
        f"blk.1.{gate}.weight": state["blocks.1.mlp.up.weight" if arch == "gpt2" else "blocks.1.mlp.gate_up.weight"],
        "blk.2.ffn_down.weight": state["blocks.2.mlp.down.weight"],
        "output_norm.weight": state["final_norm.weight"],
    }
    assert ("output.weight" in written) != tied
    for name, tensor in expected.items():
        error = {"f32": 0.0, "f16": 5e-4, "q8_0": 5e-3}[number_type if tensor.ndim == 2 else "f32"]
        ours = tensor[: len(written[name])]  # queries, or the gate
        assert (written[name] - ours).abs().max() <= error * ours.abs().max()


@pytest.mark.parametrize("arch", CONFIGS)
def test_transformers_reads_the_same_model_from_it(tmp_path, arch):
    import transformers

    loaded = calm(tmp_path, arch, "byte")
    write(loaded, tmp_path / "out", "f32")
    config = transformers.AutoConfig.from_pretrained(loaded.folder)  # it takes only some sizes from such a file
    config.vocab_size = 257
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", gguf_file="model.gguf", config=config, dtype=torch.float32
    ).eval()
    probe = make_probe(loaded)
    with torch.no_grad():
        logits = theirs(torch.tensor([probe.context(0)])).logits[0]
    torch.testing.assert_close(logits, probe.logits[0], rtol=1e-4, atol=1e-4)


def test_a_gpt2_without_biases_gets_those_that_llama_cpp_wants(tmp_path):
    write(calm(tmp_path, "gpt2", "byte", bias=False), tmp_path / "out", "f16")
    written = tensors_of(tmp_path / "out" / "model.gguf")
    biases = {name: tensor for name, tensor in written.items() if name.endswith(".bias")}
    assert len(biases) == 3 * 6 + 1
    assert not any(tensor.any() for tensor in biases.values())
    assert biases["blk.0.attn_qkv.bias"].shape == (3 * 64,)


def merged(text: str, tokens: list[str], merges: list[str]) -> list[int]:
    """Encode as byte-level BPE is defined: again and again, the pair with the lowest rank becomes one."""
    ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(merges)}
    parts = list(spell_bytes(text.encode("utf-8")))
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in ranks]:
        best = min(pairs, key=ranks.__getitem__)
        at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == best)
        parts[at : at + 2] = ["".join(best)]
    return [tokens.index(part) for part in parts]


@given(st.text(min_size=1, max_size=40), st.data())
def test_characters_are_what_their_merged_bytes_are(alphabet, data):
    alphabet = "".join(character for character in alphabet if not "\ud800" <= character <= "\udfff") + "aé東🚀"
    tokenizer = CharTokenizer.from_text([alphabet])
    text = data.draw(st.text(alphabet=sorted(set(alphabet)), max_size=40))
    expressed = byte_level(tokenizer)
    assert merged(text, expressed.tokens, expressed.merges) == tokenizer.encode(text).tolist()


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_words_are_what_their_merged_bytes_are(tokenizer):
    made = TOKENIZERS[tokenizer]()
    expressed = byte_level(made)
    for word in (*TEXT.split(" ")[:9], "東京", "ÿÿ"):
        assert merged(word, expressed.tokens, expressed.merges) == made.encode(word).tolist()


def test_what_cannot_be_expressed_by_bytes_is_refused_by_name(tmp_path):
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "one": 1, "two": 2}, "unk_token": "<unk>"}
    tokenizer = HuggingFaceTokenizer({"version": "1.0", "added_tokens": [], "model": words}, name="words", end=None)
    save_model(tmp_path / "model", tiny_model(replace(GPT2, vocab_size=3)), tokenizer, about={})
    with pytest.raises(CheckpointError, match="cannot be expressed by bytes and GPT-2's words; char, byte, bpe:N"):
        export_model(load_model(tmp_path / "model"), "gguf", tmp_path / "out")


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"bias": False}, {"norm_eps": 1e-3}])
@pytest.mark.parametrize("arch", CONFIGS)
def test_a_silent_token_changes_nothing_and_is_never_drawn(arch, changes):
    config = replace(CONFIGS[arch], **changes)
    model, tokens = tiny_model(config), 60
    state, wider = with_silent_token(model.state_dict(), config, tokens)
    with_token = GPT(replace(wider, bias=arch == "gpt2")).eval()  # biases that it is not given are 0
    assert not with_token.load_state_dict(state, strict=False).unexpected_keys
    ids = torch.randint(tokens, (4, 16))
    with torch.no_grad():
        expected, logits = (gpt.logits(gpt(ids)) for gpt in (model, with_token))
    torch.testing.assert_close(logits[..., :tokens], expected[..., :tokens], atol=2e-4, rtol=2e-4)
    assert logits.shape[-1] == tokens + 1
    assert logits[..., tokens].max() < -900


def test_a_model_without_an_end_of_text_says_so_in_the_file(tmp_path):
    loaded = saved(tmp_path / "model", QWEN3, "char")
    write(loaded, tmp_path / "out", "f16")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    end = loaded.tokenizer.vocab_size
    assert fields["tokenizer.ggml.eos_token_id"].contents() == end
    assert fields["tokenizer.ggml.suppress_tokens"].contents() == [end]
    assert fields["tokenizer.ggml.tokens"].contents()[end] == "<|endoftext|>"
    assert tensors_of(tmp_path / "out" / "model.gguf")["output.weight"].shape == (end + 1, 64)


def test_the_modelfile_says_how_we_draw(tmp_path):
    for tokenizer in ("byte", "char"):
        write(calm(tmp_path / tokenizer, "qwen3", tokenizer), tmp_path / "out", "f16")
        said = (tmp_path / "out" / "Modelfile").read_text().splitlines()
        assert said[:4] == [
            "FROM ./model.gguf",
            'TEMPLATE """{{ .Prompt }}"""',
            "PARAMETER num_ctx 64",
            "PARAMETER num_predict 500",
        ]
        assert {"PARAMETER temperature 0.8", "PARAMETER top_k 200", "PARAMETER repeat_penalty 1.0"} <= set(said)
        assert ('PARAMETER stop "<|endoftext|>"' in said) == (tokenizer == "byte")


@pytest.mark.parametrize("place", ["mybook", "mybook/checkpoints/best"])
def test_the_file_has_the_name_of_the_model(tmp_path, place):
    loaded = saved(tmp_path / place)
    write(loaded, tmp_path / "out", "f16")
    assert gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields["general.name"].contents() == "mybook"


def test_rows_that_do_not_divide_into_groups_stay_in_16_bits(tmp_path):
    write(saved(tmp_path / "model", replace(QWEN3, n_embd=48, mlp_dim=64)), tmp_path / "out", "q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "out/model.gguf").tensors}
    assert types["blk.0.ffn_up.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == "Q8_0"
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_without_llama_cpp_nothing_is_said_to_be_checked(tmp_path, monkeypatch, capsys):
    calm(tmp_path, "gpt2", "byte")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to=gguf", "--type=q8_0"]) == 0
    assert "not run: the package llama_cpp is not installed" in " ".join(capsys.readouterr().out.split())
    assert (tmp_path / "out" / "model.gguf").stat().st_size > 10_000


def test_a_type_that_a_target_does_not_have_is_refused(tmp_path, capsys):
    saved(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to=hf", "--type=q8_0"]) == 2
    assert "--to hf writes f32 only; --type is q8_0" in capsys.readouterr().err
