"""Models of the hub, fetched by the real client from a local server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers

from interop.mini_hub import MiniHub
from quillgpt.cli import main
from quillgpt.errors import CheckpointError, UserError
from quillgpt.interop import open_model
from quillgpt.interop.hub import find_hub_model
from quillgpt.text.sources.downloads import DownloadNeededError, without_downloads
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.gpt2 import gpt2_tokenizer

SMALL = {"vocab_size": 300, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MiniHub]:
    """Run an empty hub, with an empty cache; the folder of the test is the working folder."""
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    running = MiniHub()
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    template = running.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in (
        ("ENDPOINT", running.address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", template),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield running
    running.shutdown()
    running.server_close()


def published(folder: Path, **changes: object) -> Path:
    """Write a model as transformers does, with a tokenizer."""
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SMALL, **changes})).save_pretrained(folder)
    ByteTokenizer().save(folder)
    return folder


def test_a_model_is_fetched_once_and_computes_what_transformers_does(hub, tmp_path):
    hub.models["openai-community/gpt2"] = folder = published(tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    loaded = open_model(Path("gpt2"))
    ids = torch.randint(256, (2, 32))
    with torch.no_grad():
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()(ids).logits
        ours = loaded.model.logits(loaded.model(ids))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    open_model(Path("openai-community/gpt2"))
    assert hub.fetched(WEIGHTS) == 1
    assert hub.fetched("pytorch_model.bin") == 0


def test_what_was_fetched_is_there_without_the_hub(hub, tmp_path):
    hub.models["somebody/tiny"] = published(tmp_path / "published")
    before = open_model(Path("somebody/tiny")).model.state_dict()
    hub.shutdown()
    hub.server_close()
    for name, tensor in open_model(Path("somebody/tiny")).model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_broken_download_goes_on_where_it_was_cut(hub, tmp_path):
    hub.models["somebody/tiny"] = published(tmp_path / "published", n_embd=512)
    hub.cut_after[WEIGHTS] = 12_000_000  # of 25 million bytes; the client writes ten million at once
    assert open_model(Path("somebody/tiny")).config.n_embd == 512
    assert len(hub.continued) == 1
    assert hub.continued[0] > 10_000_000


def test_content_that_is_not_what_the_hub_promised_is_refused_and_removed(hub, tmp_path):
    hub.models["somebody/tiny"] = folder = published(tmp_path / "published")
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-5] ^= 1
    hub.instead[WEIGHTS] = bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: its hash is .* the Hugging Face hub says .*removed"):
        open_model(Path("somebody/tiny"))
    hub.instead.clear()
    assert open_model(Path("somebody/tiny")).config.n_layer == 2
    assert hub.fetched(WEIGHTS) == 2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
@pytest.mark.parametrize("damage", [b"", b"{", b"\xff" * 5000])
def test_a_damaged_file_of_the_cache_is_fetched_anew(name, damage, hub, tmp_path, monkeypatch):
    hub.models["somebody/tiny"] = published(tmp_path / "published")
    loaded = open_model(Path("somebody/tiny"))
    blob = (loaded.folder / name).resolve()
    blob.write_bytes(damage)
    with pytest.raises(
        CheckpointError, match=rf"{name} is damaged: .* the Hugging Face hub says .*; it was removed, try again"
    ):
        open_model(Path("somebody/tiny"))
    assert open_model(Path("somebody/tiny")).config == loaded.config
    assert hub.fetched(name) == 2


def test_a_file_that_was_removed_from_the_cache_is_named_without_the_hub(hub, tmp_path, monkeypatch):
    hub.models["somebody/tiny"] = published(tmp_path / "published")
    folder = open_model(Path("somebody/tiny")).folder
    (folder / WEIGHTS).resolve().unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"could not be fetched .*model\.safetensors"):
        open_model(Path("somebody/tiny"))


def test_nothing_outside_the_cache_is_removed(hub, tmp_path):
    hub.models["somebody/tiny"] = published(tmp_path / "published")
    folder = open_model(Path("somebody/tiny")).folder
    outside = tmp_path / ("0" * 40)
    outside.write_text("mine")
    (folder / "added_tokens.json").symlink_to(outside)
    with pytest.raises(UserError):
        open_model(Path("somebody/tiny"))
    assert outside.read_text() == "mine"


def test_weights_that_are_no_weights_are_refused(hub, tmp_path):
    hub.models["somebody/tiny"] = folder = published(tmp_path / "published")
    (folder / WEIGHTS).write_bytes(b"<html>Please log in</html>" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        open_model(Path("somebody/tiny"))


def test_a_model_of_another_kind_is_refused_before_its_weights_come(hub, tmp_path):
    folder = tmp_path / "llama"
    transformers.LlamaConfig().save_pretrained(folder)
    (folder / WEIGHTS).write_bytes(b"gigabytes")
    hub.models["somebody/llama"] = folder
    with pytest.raises(CheckpointError, match="model_type is 'llama'; supported are gpt2 and qwen3"):
        open_model(Path("somebody/llama"))
    assert hub.fetched(WEIGHTS) == 0


def test_a_model_without_safetensors_is_refused(hub, tmp_path):
    hub.models["somebody/old"] = folder = published(tmp_path / "published")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"somebody/old has no weights as safetensors, .*save_pretrained\("):
        open_model(Path("somebody/old"))


def test_names_that_the_hub_does_not_know(hub):
    with pytest.raises(CheckpointError, match=r"somebody/nothing is neither a folder nor a public model .* gpt2"):
        open_model(Path("somebody/nothing"))
    requests = len(hub.requests)
    Path("runs").mkdir()
    for path in ("runs/nothing", "nothing", "a/b/c", "ruins/ckpt.pt"):
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(Path(path))
    for path in ("./a/b", "a/b/", "../a/b", "/a/b", "~/a/b", "out/b", "out-book/b", "models/b", "Runs/b", "a/b.pt"):
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(path)
    assert len(hub.requests) == requests


def test_a_model_here_or_in_the_mirror_goes_before(hub, tmp_path, monkeypatch):
    Path("gpt2").mkdir()  # an empty folder of that name is no model
    hub.models["openai-community/gpt2"] = published(tmp_path / "published", n_layer=3)
    assert open_model(Path("gpt2")).config.n_layer == 3
    published(tmp_path / "mirror/hub/gpt2", n_layer=4)
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    assert open_model(Path("gpt2")).config.n_layer == 4
    published(tmp_path / "gpt2", n_layer=5)
    assert find_hub_model(Path("gpt2")) is None
    assert open_model(Path("gpt2")).config.n_layer == 5


def test_nothing_is_fetched_where_nothing_may_be(hub):
    with without_downloads(), pytest.raises(DownloadNeededError, match="gpt2-xl of the Hugging Face hub is not here"):
        open_model(Path("gpt2-xl"))
    assert not hub.requests


def test_without_a_connection_it_is_said_what_to_do(hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(CheckpointError, match=r"gpt2 is not on this .* set QUILL_MIRROR to a folder that has hub/gpt2"):
        open_model(Path("gpt2"))


def test_the_package_is_asked_for_by_name(hub, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        UserError, match=r"gpt2 is not a folder; fetching it needs the package huggingface_hub.*quillgpt\[hub\]"
    ):
        open_model(Path("gpt2"))


def test_weights_in_several_parts(hub, tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "published"
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SMALL))
    model.save_pretrained(folder, max_shard_size="50KB")
    ByteTokenizer().save(folder)
    assert len(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]) > 10
    hub.models["somebody/parts"] = folder
    weights = open_model(Path("somebody/parts")).model.state_dict()
    assert torch.equal(weights["token_embedding.weight"], model.transformer.wte.weight)


@pytest.fixture
def full_size(tmp_path: Path, gpt2_files: None) -> Path:
    """Write GPT-2 in its full size, with random weights and its own tokenizer; before the hub hides the mirror."""
    folder = tmp_path / "published"
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config()).save_pretrained(folder)
    gpt2_tokenizer().save(folder)
    return folder


@pytest.mark.deep
@pytest.mark.download
def test_gpt2_in_its_full_size_is_fetched_sampled_finetuned_and_exported(full_size, hub, tmp_path, capsys):
    hub.models["openai-community/gpt2"] = full_size
    hub.cut_after[WEIGHTS] = 300_000_000
    loaded = open_model(Path("gpt2"))
    assert hub.continued
    ids = torch.randint(50257, (1, 64))
    with torch.no_grad():
        theirs = transformers.GPT2LMHeadModel.from_pretrained(full_size).eval()(ids).logits
        torch.testing.assert_close(loaded.model.logits(loaded.model(ids)), theirs, atol=1e-5, rtol=1e-5)
    assert main(["sample", "gpt2", "--num_samples=1", "--max_new_tokens=5", "--start=What is"]) == 0
    (tmp_path / "book.txt").write_text("It was the best of times, it was the worst of times.\n" * 400)
    for more in ([], ["--lora_rank=4", "--out_dir=out-lora"]):
        asked = ["--data=book.txt", "--block_size=64", "--batch_size=2", "--gradient_accumulation_steps=1"]
        assert main(["train", "finetune", *asked, "--max_iters=3", "--eval_interval=3", "--eval_iters=1", *more]) == 0
    assert main(["export", "out-lora", "for-onnx", "--to=onnx"]) == 0
    assert main(["export", "out-book", "for-llama", "--to=gguf", "--type=q8_0"]) == 0
    assert hub.fetched(WEIGHTS) == 2
    assert "passed" in capsys.readouterr().out


def test_a_process_that_has_imported_nothing_else_names_what_it_cannot_reach(tmp_path):
    """Other tests have imported parts of the client that a user's process has not."""
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache"), "QUILL_HOME": str(tmp_path)}
    kept = {name: value for name, value in os.environ.items() if name != "QUILL_MIRROR"}
    command = [sys.executable, "-m", "quillgpt", "sample", "gpt2"]
    done = subprocess.run(command, env=kept | away, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "gpt2 is not on this machine, and openai-community/gpt2 could not be fetched" in done.stderr


def test_a_misspelled_name_is_answered_with_the_one_that_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"gpt2-meduim is neither a folder .*; did you mean gpt2-medium"):
        open_model(Path("gpt2-meduim"))


def test_an_owner_whose_name_begins_like_gpt2_is_no_misspelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    with without_downloads(), pytest.raises(DownloadNeededError):
        find_hub_model(Path("gpt2-lab/gpt2-medium"))
