"""Pages that run a model, in a real Chromium over file://."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import pytest

import quillgpt
from exported import saved
from quillgpt.config.schema import Sampling
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import export_model
from quillgpt.export.html import runtime, target
from quillgpt.export.html.assemble import KERNEL, is_unchanged_page, json_in_page
from quillgpt.export.html.chromium import BrowserError, find_chromium, opened
from quillgpt.generation import generate_ids
from tiny import CONFIGS, GPT2


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """Give a model and its page, which was not opened yet."""
    folder = tmp_path_factory.mktemp("page")
    loaded = saved(folder / "model", GPT2, "bpe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "find_chromium", lambda: None)
        export_model(loaded, "html", folder / "page.html")
    return loaded, folder / "page.html"


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")


@needs_chromium
@pytest.mark.parametrize(
    ("arch", "tokenizer", "kind"),
    [
        ("gpt2", "bpe", "f16"),
        ("qwen3", "byte", "f32"),
        ("gpt2", "char", "q8_0"),
        pytest.param("gpt2", "gpt2", "q8_0", marks=[pytest.mark.download, pytest.mark.deep]),
    ],
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
    whole = page.read_text(encoding="utf-8")
    cut = whole.rindex("<script>take()")
    for valid, instead, sentence in [
        ("const VECTOR = [0, 97", "const VECTOR = [1, 97", "cannot run the model: it has no WebAssembly with SIMD"),
        ("let engine = null;", "let engine = ;", "cannot run the model: it is too old"),
        (whole[cut - 50 :], "", "the file is not complete"),
    ]:
        assert whole.count(valid) == 1
        page.write_text(whole.replace(valid, instead), encoding="utf-8")
        with pytest.raises(BrowserError, match=sentence), opened(page, find_chromium()):
            pass


@needs_chromium
def test_a_stop_text_ends_what_is_written_as_in_quill_sample(page_of):
    loaded, page = page_of
    with opened(page, find_chromium()) as browser:
        for stop in (None, "e", "zq"):
            written = "".join(browser.value(COLLECTED.replace("STOP", json.dumps(stop or ""))))
            model = quillgpt.load(loaded.folder, device="cpu")
            (sample,) = model.generate("It was", max_new_tokens=60, temperature=0.0, stop=stop)
            assert written == sample.text


COLLECTED = """(async () => {
  const { ids } = await quill.ask("prompt", { text: "It was" });
  const settings = { max_new_tokens: 60, temperature: 0, top_k: 0, top_p: null, seed: "1", stop: STOP };
  const texts = [];
  await quill.ask("write", { prompt: ids, past: [], settings }, (piece) => texts.push(piece.text));
  return texts;
})()"""


@needs_chromium
def test_texts_that_part_at_a_near_tie_pass_and_others_fail(tmp_path):
    loaded, sampling = (
        saved(tmp_path / "model", replace(GPT2, tied=False), "char"),
        Sampling(temperature=0.0, num_samples=1),
    )
    start, tokens = [0], loaded.tokenizer.vocab_size
    (first, *_) = generate_ids(loaded.model, start, sampling, vocab_size=tokens)
    head, other = loaded.model.head.weight.data, (int(first) + 1) % tokens
    best = head[int(first)].clone()

    def with_lead(lead: float) -> None:
        head[other] = best * (1 + lead)

    with_lead(-1e-5)
    target.write(loaded, tmp_path, "f32")
    with closing(runtime.InChromium(tmp_path)) as page:
        for lead, result in [(-1e-5, "passed"), (1e-5, "passed"), (0.5, "failed")]:
            with_lead(lead)
            check = runtime._compare_text("greedy text", page, loaded.model, start, sampling, tokens)
            assert check.result == result
            if lead > 0:
                assert check.detail == f"0 tokens are the same, then {other} and {int(first)} are almost equally near"
                assert (check.largest_difference <= check.tolerance) == (result == "passed")


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
