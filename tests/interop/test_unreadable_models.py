"""Models that Quill cannot read are named by their kind, with advice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import quillgpt
from quillgpt.checkpoint import save_model
from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import prepare
from quillgpt.errors import CheckpointError, DataError, TokenizerError, UserError
from quillgpt.interop import open_model
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.tokenizer import load_tokenizer
from tiny import GPT2, tiny_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 548105171\n"
TOKENIZER = BytePairTokenizer.train(["the dog sees the dog"], 257)


def refuses(path: Path, *words: str, error: type[UserError] = CheckpointError) -> None:
    """Check that a path is refused in one line that has these words."""
    with pytest.raises(error) as caught:
        open_model(path, data_dir=path / "nowhere")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a model folder without weights."""
    config = to_config_json(GPT2, dropout=0.0, end_of_text=None)
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    TOKENIZER.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_pointer_of_git_lfs_is_called_one(name: str, folder: Path) -> None:
    (folder / name).write_bytes(POINTER)
    refuses(folder, name, "is a pointer of Git LFS", "git lfs pull")


def test_a_pickle_that_is_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt").write_bytes(POINTER)
    refuses(tmp_path, "ckpt.pt is a pointer of Git LFS", "git lfs pull")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"])
def test_a_tokenizer_file_that_is_a_pointer_of_git_lfs_is_called_one(name: str, folder: Path) -> None:
    if name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text('{"a": 0}')
        (folder / "merges.txt").write_text("")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(TokenizerError, match=rf"{name} is a pointer of Git LFS.* git lfs pull"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "dataset.json"])
def test_a_data_set_file_that_is_a_pointer_of_git_lfs_is_called_one(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("abc def gh!\n" * 40)
    prepare([str(tmp_path / "text.txt")], data_dir=tmp_path, tokenizer="char", dataset="letters")
    (tmp_path / "letters" / name).write_bytes(POINTER)
    with pytest.raises(DataError, match=rf"{name} is a pointer of Git LFS.* git lfs pull"):
        open_dataset("letters", tmp_path)


@pytest.mark.parametrize("method", ["awq", "gptq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_a_quantised_model_is_called_that(method: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method}}))
    refuses(folder, "is a quantised model", method, "take the model that it was made from")


def test_a_quantised_model_with_a_file_of_its_own_settings_is_called_that(folder: Path) -> None:
    (folder / "quantize_config.json").write_text('{"bits": 4}')
    refuses(folder, "is a quantised model", "quantize_config.json")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "tf_model.h5", "flax_model.msgpack", "model.Q8_0.gguf"],
)
def test_weights_of_other_kinds_are_named_with_what_makes_ours(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"x")
    refuses(folder, f"has weights only as {name}", "save_pretrained(")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vocab.txt", "BertTokenizer"),
        ("tokenizer.model", "sentencepiece"),
        ("spiece.model", "sentencepiece"),
        ("vocab.json", "without its merges.txt"),
        ("merges.txt", "without their vocab.json"),
    ],
)
def test_tokenizers_of_other_kinds_are_named(name: str, kind: str, folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / name).write_bytes(b"x")
    with pytest.raises(TokenizerError, match=rf"no tokenizer\.json, but {name}, .*{kind}.*save_pretrained\("):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["model_05000.pt", "last.ckpt", "model.gguf", "model.safetensors"])
def test_a_folder_with_a_model_of_another_name_is_told_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    refuses(tmp_path, f"has no config.json and no ckpt.pt, but {name}", "give that file")


def test_what_the_hub_gives_of_tokens_is_fetched() -> None:
    from quillgpt.interop.hub import FILES

    assert {"added_tokens.json", "special_tokens_map.json", "merges.txt", "tokenizer*.json"} <= {*FILES}


def with_tokens(folder: Path, *contents: str, special: bool) -> Path:
    """Write a model of 257 rows, whose tokenizer has further tokens."""
    save_model(folder, tiny_model(GPT2, vocab_size=257), TOKENIZER, about={})
    added = {str(257 + at): {"content": content, "special": special} for at, content in enumerate(contents)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    return folder


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    with_tokens(tmp_path, "<user>", special=False)
    refuses(tmp_path, "has ids up to 257, but the model has rows for the first 257 only", error=TokenizerError)


def test_special_tokens_without_a_row_are_said_and_never_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = quillgpt.load(with_tokens(tmp_path, "[PAD]", special=True), device="cpu", dtype="float32", threads=1)
    assert "1 special tokens of the tokenizer have no row in the model" in " ".join(capsys.readouterr().err.split())
    assert max(model.generate("the", max_new_tokens=50, temperature=5, top_k=0)[0].ids) < 257
    with pytest.raises(TokenizerError, match=r"the prompt has the token '\[PAD\]', which the model does not know"):
        model.generate("the [PAD]")
