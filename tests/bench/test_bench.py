"""Timing side by side: fair turns, honest ratios, and the peer run as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quillgpt.bench.nanogpt import make_model
from quillgpt.bench.rounds import run_rounds
from quillgpt.cli import main
from quillgpt.errors import UserError
from quillgpt.model import ModelShape

SMALL = ["--n_layer=1", "--n_head=1", "--n_embd=16", "--block_size=8", "--batch_size=2", "--device=cpu", "--threads=1"]

# The part of nanoGPT's interface that its scripts use, with the smallest model that has it.
PEER = """
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
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

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


@pytest.fixture
def peer(tmp_path: Path) -> str:
    (tmp_path / "model.py").write_text(PEER)
    return f"nanogpt={tmp_path}"


def test_candidates_take_turns_after_one_warm_up() -> None:
    order: list[str] = []
    rates = iter([1.0, 1.0, 8.0, 2.0, 9.0, 3.0, 4.0, 4.0])

    def candidate(name: str) -> float:
        order.append(name)
        return next(rates)

    first, second = run_rounds({"a": lambda: candidate("a"), "b": lambda: candidate("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert (first.rates, second.rates) == ([8.0, 9.0, 4.0], [2.0, 3.0, 4.0])
    assert (first.median, second.median) == (8.0, 3.0)
    assert (first.ratio, second.ratio) == (1.0, 3.0)  # the median of 4, 3 and 1


@pytest.mark.parametrize("what", [["train", "--iterations=1"], ["sample", "--max_new_tokens=4"]], ids=lambda w: w[0])
def test_the_commands_print_a_row_for_each_candidate(
    what: list[str], peer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *flags = what
    words = ["bench", name, "shakespeare_char_cpu", *flags, *SMALL, "--rounds=2", "--peer", peer, "--json"]
    assert main(words) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["quill", "nanogpt"]
    assert all(len(row["rates"]) == 2 and min(row["rates"]) > 0 for row in rows)


def test_a_missing_checkout_is_named(tmp_path: Path) -> None:
    shape = ModelShape("gpt2", 65, 8, 1, 1, 1, 16, 16, 64)
    with pytest.raises(UserError, match=r"model\.py does not exist"):
        make_model(tmp_path / "nowhere", shape, 0.0)


def test_an_unknown_peer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "--peer=llama"]) == 2
    assert "expected nanogpt=PATH" in capsys.readouterr().err
