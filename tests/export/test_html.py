"""Pages that run a model, in a real Chromium over file://."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from exported import saved
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import export_model
from quillgpt.export.html import runtime, target
from quillgpt.export.html.assemble import KERNEL, is_unchanged_page, json_in_page
from quillgpt.export.html.chromium import BrowserError, find_chromium, opened
from tiny import CONFIGS, GPT2

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")


@needs_chromium
@pytest.mark.parametrize(
    ("arch", "tokenizer", "kind"), [("gpt2", "bpe", "f16"), ("qwen3", "byte", "f32"), ("gpt2", "char", "q8_0")]
)
def test_a_page_does_the_same(tmp_path, arch, tokenizer, kind):
    loaded = saved(tmp_path / "model", CONFIGS[arch], tokenizer)
    certificate = export_model(loaded, "html", tmp_path / "page.html", number_type=kind)
    assert {check.result for check in certificate.checks} == {"passed"}
    found = {check.name: check for check in certificate.checks}
    assert found["logits"].largest_difference < 1e-4
    assert found["ids of prompts"].detail.startswith("200 prompts in 4 scripts")
    assert ("rounding" in found) == (kind != "f32")
    assert found["requests"].detail == "only the page itself and its own worker"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "page.html"]
    assert is_unchanged_page(tmp_path / "page.html")


@needs_chromium
def test_a_browser_without_vectors_shows_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "find_chromium", lambda: None)
    page = tmp_path / "page.html"
    export_model(saved(tmp_path / "model"), "html", page)
    valid = "const VECTOR = [0, 97"
    text = page.read_text(encoding="utf-8")
    assert text.count(valid) == 1
    page.write_text(text.replace(valid, "const VECTOR = [1, 97"), encoding="utf-8")
    with (
        pytest.raises(BrowserError, match="cannot run the model: it has no WebAssembly with SIMD"),
        opened(page, find_chromium()),
    ):
        pass


def test_without_chromium_the_certificate_says_so_and_only_own_pages_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "find_chromium", lambda: None)
    loaded, page = saved(tmp_path / "model", replace(GPT2, n_layer=1)), tmp_path / "page.html"
    certificate = export_model(loaded, "html", page)
    assert certificate.runtime is None
    assert [check.result for check in certificate.checks] == ["not run"]
    assert "neither Chromium nor Chrome was found" in page.read_text(encoding="utf-8")
    assert str(tmp_path) not in page.read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="is there already"):
        export_model(loaded, "html", page)
    export_model(loaded, "html", page, overwrite=True)
    page.write_text(page.read_text(encoding="utf-8") + "mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="changed since"):
        export_model(loaded, "html", page, overwrite=True)
    assert page.read_text(encoding="utf-8").endswith("mine")
    with pytest.raises(ConfigError, match="is no name for it"):
        export_model(loaded, "html", tmp_path / "folder")
    with pytest.raises(ConfigError, match="f16 or q8_0 or f32 only"):
        export_model(loaded, "html", tmp_path / "other.html", number_type="q4_0")


def test_a_large_model_is_refused_and_gguf_named(tmp_path, monkeypatch):
    monkeypatch.setattr(target, "MOST_PARAMETERS", 1000)
    with pytest.raises(CheckpointError, match=r"at most 1,000; write GGUF .* --to=gguf"):
        export_model(saved(tmp_path / "model"), "html", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_kernel_is_what_its_source_assembles_to():
    wasmtime = pytest.importorskip("wasmtime")
    assert bytes(wasmtime.wat2wasm(KERNEL.with_suffix(".wat").read_text(encoding="utf-8"))) == KERNEL.read_bytes()


def test_no_value_ends_its_element():
    hostile = "</script><!-- <script>alert(1)"
    assert "<" not in json_in_page({hostile: hostile})
    assert json.loads(json_in_page({hostile: hostile})) == {hostile: hostile}
