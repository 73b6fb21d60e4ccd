"""Exported models, run in other programs from the written files alone."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

from exported import TEXT, TOKENIZERS, saved
from quillgpt.checkpoint import LoadedModel, load_model, save_model
from quillgpt.cli import main
from quillgpt.cli.export import export as command
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.export import TARGETS, export_model
from quillgpt.export.certificate import CERTIFICATE
from quillgpt.export.probe import Runtime, _spread, compare_answers, make_probe
from quillgpt.files import sha256_of
from quillgpt.interop import open_model
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import CONFIGS, GPT2, tiny_model

UMASK = os.umask(0)
os.umask(UMASK)
NANOGPT = replace(GPT2, activation="gelu", norm_eps=1e-5, bias=False)
needs_files = pytest.mark.download
ALL_TOKENIZERS = [pytest.param(name, marks=needs_files if name == "gpt2" else ()) for name in TOKENIZERS]


@pytest.mark.parametrize("tokenizer", ALL_TOKENIZERS)
@pytest.mark.parametrize("arch", CONFIGS)
def test_transformers_does_the_same(tmp_path, arch, tokenizer):
    loaded = saved(tmp_path / "model", CONFIGS[arch], tokenizer)
    certificate = export_model(loaded, "hf", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    assert certificate.runtime.startswith("transformers ")
    written = json.loads((tmp_path / "out" / CERTIFICATE).read_text())
    assert [check["name"] for check in written["checks"]] == [
        "token ids",
        "text of ids",
        "logits",
        "likeliest continuation",
        "end of text",
    ]
    assert 0 < written["checks"][2]["largest_difference"] < 1e-4
    assert not (tmp_path / "out" / "training").exists()


def test_every_target_can_be_named():
    assert set(get_args(get_type_hints(command)["to"])) == set(TARGETS)


@pytest.mark.parametrize("tokenizer", ["char", pytest.param("gpt2", marks=needs_files)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_checkpoint_for_nanogpt_holds_what_its_scripts_read(tmp_path, tokenizer, bias):
    loaded = saved(tmp_path / "model", replace(NANOGPT, bias=bias), tokenizer)
    certificate = export_model(loaded, "nanogpt", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    content = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    assert content["model_args"] == {
        **{"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 64, "bias": bias, "dropout": 0.0},
        "vocab_size": loaded.config.vocab_size,
    }
    assert content["model"]["transformer.h.0.attn.c_attn.weight"].shape == (96, 32)
    assert content["model"]["lm_head.weight"].equal(content["model"]["transformer.wte.weight"])
    assert ("transformer.ln_f.bias" in content["model"]) == bias
    assert content["iter_num"] == 3
    decayed, others = content["optimizer"]["param_groups"]  # as nanoGPT's configure_optimizers sorts them
    own = {name: tensor for name, tensor in content["model"].items() if name != "lm_head.weight"}
    assert len(decayed["params"]) == sum(tensor.ndim >= 2 for tensor in own.values())
    assert len(others["params"]) == sum(tensor.ndim < 2 for tensor in own.values())
    assert content["optimizer"]["state"] == {}
    assert (tmp_path / "out" / "meta.pkl").exists() == (tokenizer == "char")
    back = open_model(tmp_path / "out")
    for name, tensor in loaded.model.state_dict().items():
        assert back.model.state_dict()[name].equal(tensor)


@pytest.mark.parametrize(
    ("config", "tokenizer", "said"),
    [
        (CONFIGS["qwen3"], "char", "nanoGPT's model has arch = gpt2, .* has arch = qwen3"),
        (GPT2, "char", "nanoGPT's model has activation = gelu, .* has activation = gelu_new"),
        (replace(NANOGPT, tied=False), "char", "nanoGPT's model has tied = True, .* has tied = False"),
        (replace(NANOGPT, mlp_dim=64), "char", "mlp_dim = 128"),
        (NANOGPT, "byte", "nanoGPT knows tokenizers by characters and GPT-2's, .* has byte"),
    ],
)
def test_what_nanogpt_cannot_be_is_refused_by_name(tmp_path, config, tokenizer, said):
    with pytest.raises(CheckpointError, match=said):
        export_model(saved(tmp_path / "model", config, tokenizer), "nanogpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spoil", ["weights", "tokenizer", "end of text"])
def test_what_behaves_differently_is_not_kept(tmp_path, monkeypatch, spoil, capsys):
    saved(tmp_path / "model")
    write = TARGETS["hf"].write

    def write_wrongly(loaded: LoadedModel, folder: Path, number_type: str) -> None:
        if spoil == "weights":
            model = loaded.build()
            with torch.no_grad():
                model.blocks[1].mlp.up.weight[3, 4] += 0.5
            save_model(folder, model, loaded.tokenizer, about={})
            return
        write(loaded, folder, number_type)
        if spoil == "tokenizer":
            CharTokenizer.from_text([TEXT]).save(folder)
        else:
            path = folder / "generation_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 5}))

    monkeypatch.setitem(TARGETS, "hf", replace(TARGETS["hf"], write=write_wrongly))
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to=hf"]) == 1
    said = capsys.readouterr().err
    assert {"weights": "logits", "tokenizer": "opening and running it", "end of text": "end of text"}[spoil] in said
    assert "the export was removed" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_program_that_is_not_there_is_named_in_the_certificate(tmp_path, monkeypatch, capsys):
    saved(tmp_path / "model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--to=hf"]) == 0
    assert "not run: the package transformers is not installed" in " ".join(capsys.readouterr().out.split())
    written = json.loads((tmp_path / "out" / CERTIFICATE).read_text())
    assert written["runtime"] is None
    assert [check["result"] for check in written["checks"]] == ["not run"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    loaded = saved(tmp_path / "model")
    export_model(loaded, "hf", tmp_path / "out")
    with pytest.raises(ConfigError, match="is there already; choose another folder, or add --overwrite"):
        export_model(loaded, "hf", tmp_path / "out")
    export_model(loaded, "hf", tmp_path / "out", overwrite=True)
    (tmp_path / "empty").mkdir()
    export_model(loaded, "hf", tmp_path / "empty")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "empty").iterdir()} == {0o666 & ~UMASK}


def refused(loaded, folder):
    """Return why an export does not replace a folder, in which nothing has changed."""
    before = {path: path.is_file() and path.read_bytes() for path in folder.parent.rglob("*")}
    with pytest.raises(ConfigError) as failure:
        export_model(loaded, "hf", folder, overwrite=True)
    assert {path: path.is_file() and path.read_bytes() for path in folder.parent.rglob("*")} == before
    return str(failure.value)


def test_a_link_or_a_file_is_not_overwritten(tmp_path):
    loaded = saved(tmp_path / "model")
    (tmp_path / "file.txt").write_text("a poem")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    assert "is a link" in refused(loaded, tmp_path / "link")
    assert "is a file" in refused(loaded, tmp_path / "file.txt")


def test_neither_the_model_nor_the_current_folder_is_overwritten_nor_what_holds_them(tmp_path, monkeypatch):
    loaded = saved(tmp_path / "work" / "here" / "model")
    for folder in (loaded.folder, loaded.folder.parent):
        assert "the model" in refused(loaded, folder)
    other = saved(tmp_path / "other")
    export_model(other, "hf", tmp_path / "export")
    monkeypatch.chdir(tmp_path / "work" / "here")
    for folder in (Path(), Path(".."), Path("../../work")):
        assert "the current folder" in refused(other, folder)
    assert "the model" in refused(load_model(tmp_path / "export"), tmp_path / "export")


def test_what_an_export_did_not_write_or_a_person_changed_is_not_overwritten(tmp_path):
    loaded = saved(tmp_path / "model")
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / CERTIFICATE).write_text('{"kty": "EC"}')
    assert f"holds {CERTIFICATE}, not written by an export" in refused(loaded, tmp_path / "tls")
    for name, text in (("notes.txt", "mine"), ("config.json", "{}"), ("mine/deep.txt", "mine")):
        folder = tmp_path / name.partition(".")[0]
        export_model(loaded, "hf", folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        assert f"holds {name}, not written by an export or changed since" in refused(loaded, folder)


def test_a_killed_export_leaves_nothing_that_the_next_does_not_clear_or_put_back(tmp_path):
    loaded = saved(tmp_path / "model")
    export_model(loaded, "hf", tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")  # killed between two renames
    left = tmp_path / ".out.exporting-x1"
    left.mkdir()
    os.utime(left, (0, 0))
    with pytest.raises(ConfigError, match="is there already"):
        export_model(loaded, "hf", tmp_path / "out")
    export_model(loaded, "hf", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_an_export_lists_the_hashes_of_its_files(tmp_path):
    export_model(saved(tmp_path / "model"), "hf", tmp_path / "out")
    files = json.loads((tmp_path / "out" / CERTIFICATE).read_text())["files"]
    there = {path.name: sha256_of(path) for path in (tmp_path / "out").iterdir() if path.name != CERTIFICATE}
    assert files == there


def test_a_model_whose_context_is_shorter_than_the_probe(tmp_path):
    made = ByteTokenizer()
    save_model(tmp_path / "model", tiny_model(replace(GPT2, vocab_size=257, block_size=8)), made, about={})
    certificate = export_model(load_model(tmp_path / "model"), "hf", tmp_path / "out")
    assert {check.result for check in certificate.checks} == {"passed"}
    assert {check.name: check.detail for check in certificate.checks}["likeliest continuation"].startswith("7 tokens")


class Pretender(Runtime):
    """A program that answers as our model does, but for what a test changes."""

    def __init__(self, probe, **changes):
        self.name, self.end_of_text, self.probe, self.changes = "pretender", probe.end_of_text, probe, changes

    def encode(self, text):
        return self.probe.ids[self.probe.texts.index(text)]

    def decode(self, ids):
        return self.probe.texts[self.probe.ids.index(ids)]

    def logits(self, ids):
        index = next(i for i in range(len(self.probe.ids)) if self.probe.context(i) == ids)
        logits = self.probe.logits[index].clone()
        if index == len(self.probe.ids) - 1:
            logits[3, 4] += self.changes.get("error", 0.0)
        return logits

    def generate(self, ids, count):
        return self.changes.get("continuation", self.probe.continuation)[:count]


def failed(probe, **changes):
    checks = compare_answers(probe, Pretender(probe, **changes), tolerance=0.01)
    return [check.name for check in checks if check.result == "failed"]


def test_logits_that_are_not_finite_fail(tmp_path):
    probe = make_probe(saved(tmp_path / "model"))
    assert failed(probe) == []
    assert failed(probe, error=float("nan")) == ["logits"]
    assert failed(probe, error=float("inf")) == ["logits"]


def test_another_token_passes_only_if_both_are_almost_equally_likely(tmp_path):
    probe = make_probe(saved(tmp_path / "model"))
    worst, second = (int(probe.choices[5].argsort()[place]) for place in (0, -2))
    swapped = {place: [*probe.continuation[:5], place, *probe.continuation[6:]] for place in (worst, second)}
    assert failed(probe, continuation=swapped[worst]) == ["likeliest continuation"]
    assert failed(probe, continuation=probe.continuation[:5]) == ["likeliest continuation"]
    probe.choices[5, second] = probe.choices[5].max() - 0.01 * probe.choices.std()
    assert failed(probe, continuation=swapped[second]) == []


def test_logits_of_a_vocabulary_of_one_token_are_compared_as_they_are():
    same = torch.full((8, 1), 0.3)
    assert _spread(same) == 1
    assert _spread(torch.tensor([[0.0, 2.0]])) == pytest.approx(2**0.5)
