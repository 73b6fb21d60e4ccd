"""ONNX graphs with keys and values, run by onnxruntime, and by transformers.js where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch

from exported import saved
from quillgpt.checkpoint import LoadedModel
from quillgpt.config.schema import Sampling
from quillgpt.export import export_model
from quillgpt.export import onnx as plain_onnx
from quillgpt.export.certificate import Certificate
from quillgpt.export.onnx_with_past import OnnxWithPast
from quillgpt.generation import generate_ids
from tiny import CONFIGS

LAYERS = {"gpt2": 2, "qwen3": 1}
TOKENS = 257
TRANSFORMERS_JS = "@huggingface/transformers"
PROGRAM = """
const { env, AutoTokenizer, AutoModelForCausalLM } = require("@huggingface/transformers");
env.allowRemoteModels = false;
const [folder, prompt, count] = process.argv.slice(1);
(async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const model = await AutoModelForCausalLM.from_pretrained(folder);
    const inputs = tokenizer(prompt, { add_special_tokens: false });
    const written = await model.generate({ ...inputs, max_new_tokens: Number(count), do_sample: false });
    const rest = await model.generate({ ...inputs, do_sample: false });
    console.log(JSON.stringify({
        written: written.tolist()[0].map(Number),
        length: rest.dims[1],
        version: env.version,
    }));
})();
"""


class Exported(NamedTuple):
    loaded: LoadedModel
    folder: Any
    certificate: Certificate


@pytest.fixture(scope="module", params=CONFIGS)
def exported(request, tmp_path_factory) -> Exported:
    """A small model, written once; that of gpt2 has its weights beside the graph, as large ones have."""
    folder = tmp_path_factory.mktemp(request.param)
    loaded = saved(folder / "model", replace(CONFIGS[request.param], n_layer=LAYERS[request.param]))
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gpt2":
            patch.setattr(plain_onnx, "LARGEST_FILE", 1000)
        certificate = export_model(loaded, "onnx-with-past", folder / "out")
    return Exported(loaded, folder / "out", certificate)


def test_onnxruntime_does_the_same_token_by_token(exported):
    assert [check.result for check in exported.certificate.checks] == ["passed"] * 5
    assert exported.certificate.runtime.startswith("onnxruntime ")
    assert 0 < exported.certificate.checks[2].largest_difference < 1e-4


def test_names_are_those_of_optimum_and_transformers_js(exported):
    large = exported.loaded.config.arch == "gpt2"
    files = ["README.md", "certificate.json", "config.json", "generation_config.json", "onnx/model.onnx"]
    files += ["onnx/model.onnx_data"] * large + ["tokenizer.json", "tokenizer_config.json"]
    there = exported.folder.rglob("*")
    assert sorted(str(path.relative_to(exported.folder)) for path in there if path.is_file()) == files
    graph = onnx.load(exported.folder / "onnx/model.onnx", load_external_data=False).graph
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    config = exported.loaded.config
    batch, new = "batch_size", "sequence_length"
    kept = [batch, config.n_kv_head, "past_sequence_length", config.head_dim]
    assert shapes["input_ids"] == shapes["position_ids"] == [batch, new]
    assert shapes["attention_mask"] == [batch, "total_sequence_length"]
    assert shapes["logits"] == [batch, new, TOKENS]
    layers = [f"{layer}.{what}" for layer in range(config.n_layer) for what in ("key", "value")]
    assert [shapes[f"past_key_values.{name}"] for name in layers] == [kept] * len(layers)
    assert [[shape[1], shape[3]] for name in layers if (shape := shapes[f"present.{name}"])] == [
        [config.n_kv_head, config.head_dim]
    ] * len(layers)
    assert len(shapes) == 4 + 2 * len(layers)
    config_json = json.loads((exported.folder / "config.json").read_text())
    assert config_json["transformers.js_config"] == {"dtype": "fp32", "use_external_data_format": large}
    assert config_json["vocab_size"] == TOKENS


def test_each_step_is_given_one_token(exported, monkeypatch):
    runtime, given = OnnxWithPast(exported.folder), []
    run = runtime._session.run

    class Counting:
        get_inputs = runtime._session.get_inputs

        def run(self, names, inputs):
            given.append((inputs["input_ids"].shape[1], inputs["past_key_values.0.key"].shape[2]))
            return run(names, inputs)

    monkeypatch.setattr(runtime, "_session", Counting())
    monkeypatch.setattr(runtime, "end_of_text", None)
    runtime.generate([1, 2, 3, 4], 10)
    assert given == [(4, 0), *((1, past) for past in range(4, 13))]


def test_texts_of_a_batch_may_have_padding_before_them(exported):
    model, session = exported.loaded.model, OnnxWithPast(exported.folder)._session
    texts = [torch.randint(TOKENS, (length,)).tolist() for length in (9, 4, 6)]
    longest = max(map(len, texts))
    mask = np.array([[0] * (longest - len(text)) + [1] * len(text) for text in texts])
    ids = np.array([[0] * (longest - len(text)) + text for text in texts])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    past = {
        given.name: np.zeros((3, given.shape[1], 0, given.shape[3]), np.float32)
        for given in session.get_inputs()
        if given.name.startswith("past")
    }
    parts = []
    for first, end in ((0, 5), (5, 6), (6, 9)):  # some at once, one, and several after others
        logits, *present = session.run(
            None,
            {
                "input_ids": ids[:, first:end],
                "attention_mask": mask[:, :end],
                "position_ids": positions[:, first:end],
                **past,
            },
        )
        parts.append(logits)
        past = dict(zip(past, present, strict=True))
    together = np.concatenate(parts, axis=1)
    for row, text in enumerate(texts):
        with torch.no_grad():
            expected = model.logits(model(torch.tensor([text])))[0, :, :TOKENS]
        np.testing.assert_allclose(together[row, longest - len(text) :], expected, rtol=1e-4, atol=1e-4)


def environment_of_node() -> dict[str, str]:
    """Return an environment in which Node.js finds transformers.js, or skip the test."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node.js is not installed")
    everywhere = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, timeout=60).stdout.strip()
    places = os.pathsep.join(filter(None, [os.environ.get("NODE_PATH"), everywhere]))
    environment = os.environ | {"NODE_PATH": places}
    find = ["node", "--eval", f"require.resolve('{TRANSFORMERS_JS}')"]
    if subprocess.run(find, env=environment, capture_output=True, timeout=60).returncode:
        pytest.skip(f"{TRANSFORMERS_JS} is not installed (npm install --global {TRANSFORMERS_JS})")
    return environment


@pytest.mark.npm
def test_transformers_js_writes_the_same(exported):
    loaded, prompt, count = exported.loaded, "It was the best café, 東", 12
    run = subprocess.run(
        ["node", "--eval", PROGRAM, str(exported.folder), prompt, str(count)],
        env=environment_of_node(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    ids = loaded.tokenizer.encode(prompt).tolist()
    greedy = Sampling(num_samples=1, max_new_tokens=count, temperature=0.0)
    expected = [int(token) for token in generate_ids(loaded.model, ids, greedy, vocab_size=TOKENS)]
    if loaded.tokenizer.end_of_text in expected:
        expected = expected[: expected.index(loaded.tokenizer.end_of_text) + 1]
    assert said["written"] == ids + expected
    assert said["length"] <= loaded.config.block_size  # generation_config.json says where the context ends
