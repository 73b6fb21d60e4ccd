"""A small checkout with the parts of nanoGPT that are used: model.py and the prepare scripts."""

from __future__ import annotations

from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import pytest

from quillgpt.bench import worker

MODEL = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)
        print("a model says something")

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), lr=learning_rate, betas=betas, weight_decay=weight_decay)

    def forward(self, tokens, targets):
        logits = self.table(tokens)
        return logits, torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    def generate(self, tokens, count, temperature, top_k):
        for _ in range(count):
            tokens = torch.cat((tokens, self.table(tokens[:, -1:]).argmax(-1)), dim=1)
        return tokens
"""

BY_CHARACTERS = """
import numpy

text = open("input.txt").read()
alphabet = sorted(set(text))
ids = numpy.array([alphabet.index(character) for character in text], dtype=numpy.uint16)
cut = int(len(text) * 0.9)
ids[:cut].tofile("train.bin")
ids[cut:].tofile("val.bin")
"""

BY_GPT2_TOKENS = """
import numpy, tiktoken

text = open("input.txt").read()
cut = int(len(text) * 0.9)
for name, part in (("train.bin", text[:cut]), ("val.bin", text[cut:])):
    numpy.array(tiktoken.get_encoding("gpt2").encode_ordinary(part), dtype=numpy.uint16).tofile(name)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    for path, content in {
        "model.py": MODEL,
        "data/shakespeare_char/prepare.py": BY_CHARACTERS,
        "data/shakespeare/prepare.py": BY_GPT2_TOKENS,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def quick_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is measured run in processes that are forked from one that has imported what they need."""
    if "forkserver" in get_all_start_methods():
        forking = get_context("forkserver")
        forking.set_forkserver_preload(["torch._dynamo", "quillgpt.bench.attention", "quillgpt.bench.worker"])
        monkeypatch.setattr(worker, "get_context", lambda _: forking)
