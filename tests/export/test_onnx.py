"""ONNX graphs, run by onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from exported import saved
from quillgpt.export import export_model, onnx
from tiny import CONFIGS, GPT2

CASES = [  # each architecture, and each tokenizer: the graph does not depend on that
    ("gpt2", "char"),
    ("qwen3", "byte"),
    ("qwen3", "bpe"),
    pytest.param("gpt2", "gpt2", marks=pytest.mark.download),
]


@pytest.mark.parametrize(("arch", "tokenizer"), CASES)
def test_onnxruntime_does_the_same(tmp_path, arch, tokenizer):
    loaded = saved(tmp_path / "model", replace(CONFIGS[arch], n_layer=2), tokenizer)
    certificate = export_model(loaded, "onnx", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    assert certificate.runtime.startswith("onnxruntime ")
    assert 0 < certificate.checks[2].largest_difference < 1e-4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(
            "README.md",
            "certificate.json",
            "generation_config.json",
            "model.onnx",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
    ]


def test_batch_and_length_are_free_and_only_tokens_are_scored(tmp_path):
    loaded = saved(tmp_path / "model", replace(GPT2, n_layer=1))
    onnx.write(loaded, tmp_path / "out", "f32")
    session = onnx.OnnxRuntime(tmp_path / "out")._session
    for batch, length in ((1, 1), (1, 64), (3, 5), (7, 2)):
        ids = torch.randint(257, (batch, length))
        (logits,) = session.run(["logits"], {"input_ids": ids.numpy()})
        assert logits.shape == (batch, length, 257)
        with torch.no_grad():
            expected = loaded.model.logits(loaded.model(ids))[..., :257]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_large_weights_stand_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "LARGEST_FILE", 1000)
    certificate = export_model(saved(tmp_path / "model", replace(GPT2, n_layer=1)), "onnx", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > 50_000
