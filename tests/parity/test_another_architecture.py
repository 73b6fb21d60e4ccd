"""A third architecture takes two entries: the parts of its models, and how its stock class stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from quillgpt.checkpoint import load_model, save_model
from quillgpt.checkpoint.stock_classes import STOCK_CLASSES
from quillgpt.model import ARCHITECTURES, GPT, GPTConfig
from quillgpt.model.cost import saved_bytes_per_token
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import QWEN3, random_ids, randomize
from tolerances import FLOAT32


def read_llama(config_json: Mapping[str, Any]) -> tuple[GPTConfig, float]:
    config, dropout = STOCK_CLASSES["qwen3"].read_config(config_json)
    return replace(config, arch="llama"), dropout  # type: ignore[arg-type]


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> GPTConfig:
    monkeypatch.setitem(ARCHITECTURES, "llama", replace(ARCHITECTURES["qwen3"], qk_norm=False))
    qwen3 = STOCK_CLASSES["qwen3"]
    required = {name: value for name, value in qwen3.required.items() if name != "use_sliding_window"}
    stock = replace(qwen3, name="LlamaForCausalLM", read_config=read_llama, required=required)
    monkeypatch.setitem(STOCK_CLASSES, "llama", stock)
    return replace(QWEN3, arch="llama", vocab_size=320)  # type: ignore[arg-type]


def test_its_models_are_saved_opened_and_computed_by_its_stock_class(llama: GPTConfig, tmp_path: Path) -> None:
    model = GPT(llama).eval()
    randomize(model)
    assert "blocks.0.attention.query_norm.weight" not in model.state_dict()
    save_model(tmp_path, model, ByteTokenizer(), about={})
    loaded = load_model(tmp_path)
    assert loaded.config == llama
    stock = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = random_ids(llama, 2, 16)
    with torch.no_grad():
        logits = model.logits(model(ids))
        assert torch.equal(loaded.model.logits(loaded.model(ids)), logits)
        torch.testing.assert_close(logits, stock(ids).logits, **FLOAT32)
    assert saved_bytes_per_token(llama, attn_path="sdpa", dropout=False, value_bytes=4) > 0
