"""The script in numpy, run by a Python that can import nothing else."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace

import pytest

import quillgpt
from exported import saved
from quillgpt.cli import main
from quillgpt.export import export_model
from quillgpt.export.script import NumpyScript, write
from tiny import CONFIGS, GPT2, QWEN3

ODD = "ab'sdmtlvre  \t\n\r\x0b\x1c\x85\xa0\u1680\u2003\u200b\u2028\u3000012½²Ⅷ一二é\u0301ß東🚀_-^]\\[.—Ωʰªً๓"


def sampled(folder, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the script as a person does."""
    return subprocess.run([sys.executable, folder / "sample.py", *arguments], capture_output=True, timeout=100)


@pytest.mark.parametrize(
    ("config", "tokenizer"),
    [
        (GPT2, "byte"),
        (replace(GPT2, activation="gelu", bias=False, tied=False, norm_eps=1e-2), "char"),
        (QWEN3, "char"),
        (replace(QWEN3, n_kv_head=4, tied=False, rope_theta=100.0), "bpe"),
        pytest.param(GPT2, "gpt2", marks=pytest.mark.download),
    ],
)
def test_numpy_does_the_same(tmp_path, config, tokenizer):
    certificate = export_model(saved(tmp_path / "model", config, tokenizer), "script", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    assert certificate.runtime.startswith("Python ")
    assert 0 < certificate.checks[2].largest_difference < 1e-4


@pytest.mark.parametrize("arch", CONFIGS)
def test_it_has_at_most_200_lines(tmp_path, arch):
    write(saved(tmp_path / "model", CONFIGS[arch]), tmp_path / "out", "f32")
    programs = [(tmp_path / "out" / name).read_text() for name in ("sample.py", "model.py")]
    assert sum(len(program.splitlines()) for program in programs) <= 200
    assert max(len(line) for program in programs for line in program.splitlines()) <= 120


@pytest.mark.parametrize(
    ("arch", "tokenizer", "settings"),
    [
        ("gpt2", "byte", {"max_new_tokens": 100, "num_samples": 2}),  # beyond the context, which is 64
        ("qwen3", "bpe", {"max_new_tokens": 100, "temperature": 1.3, "top_k": 0, "top_p": 0.7, "seed": 5}),
        ("qwen3", "char", {"max_new_tokens": 40, "top_k": 3}),
        ("gpt2", "bpe", {"max_new_tokens": 40, "temperature": 0.0}),
    ],
)
def test_a_seed_gives_the_text_of_quill_sample(tmp_path, arch, tokenizer, settings):
    write(saved(tmp_path / "model", CONFIGS[arch], tokenizer), tmp_path / "out", "f32")
    run = sampled(tmp_path / "out", "It was", *(f"--{name}={value}" for name, value in settings.items()))
    drawn = quillgpt.load(tmp_path / "model", device="cpu").generate("It was", **settings)
    expected = "".join(f"{sample.prompt}{sample.text}\n{'-' * 15}\n" for sample in drawn)
    assert run.stdout.decode("utf-8", "replace") == expected
    assert not run.stderr


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_without_a_prompt_a_text_starts_as_quill_starts_it(tmp_path, tokenizer):
    write(saved(tmp_path / "model", GPT2, tokenizer), tmp_path / "out", "f32")
    run = sampled(tmp_path / "out", "--max_new_tokens=20")
    (drawn,) = quillgpt.load(tmp_path / "model", device="cpu").generate(max_new_tokens=20)
    assert run.stdout.decode("utf-8", "replace") == f"{drawn.prompt}{drawn.text}\n{'-' * 15}\n"


def test_odd_texts_become_the_same_tokens(tmp_path):
    loaded = saved(tmp_path / "model", GPT2, "bpe")
    write(loaded, tmp_path / "out", "f32")
    script, draw = NumpyScript(tmp_path / "out"), random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice(ODD) for _ in range(draw.randint(0, 12)))
        assert script.encode(text) == loaded.tokenizer.encode(text).tolist(), repr(text)


def test_a_character_that_the_model_does_not_know_is_named(tmp_path):
    write(saved(tmp_path / "model", GPT2, "char"), tmp_path / "out", "f32")
    run = sampled(tmp_path / "out", "It was XQ")
    assert run.stderr.decode() == "the text that this model learned from has no Q X; leave it out\n"
    assert not run.stdout


def test_a_script_that_needs_more_than_numpy_fails_its_check(tmp_path):
    write(saved(tmp_path / "model"), tmp_path / "out", "f32")
    program = tmp_path / "out" / "model.py"
    program.write_text("import safetensors\n" + program.read_text())
    with pytest.raises(RuntimeError, match="safetensors is neither numpy nor a part of Python"):
        NumpyScript(tmp_path / "out")


def test_the_folder_opens_in_quill_too(tmp_path, capsys):
    write(saved(tmp_path / "model"), tmp_path / "out", "f32")
    assert main(["sample", str(tmp_path / "out"), "--start=It", "--num_samples=1", "--max_new_tokens=3"]) == 0
    assert capsys.readouterr().out.startswith("It")
