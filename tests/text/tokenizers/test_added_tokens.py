"""Added tokens of a model folder are read as transformers reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from quillgpt.errors import TokenizerError
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.tokenizer import load_tokenizer, tokenizer_from_spec

END = "<|endoftext|>"
LEARNT = BytePairTokenizer.train(["the dog sees the dog's other dog, the sea and the tree. " * 9], 290)
FREE = LEARNT.vocab_size
TEXT = "the dog <user> sees<user>the sea <pad>. [X] other tree[X]and<|endoftext|> the </s> Dog"


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def folder_of(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    named: dict[str, Any] | None = None,
    added: dict[str, Any] | None = None,
    older: bool = True,
    without_end: bool = False,
) -> Path:
    """Make the folder of a GPT-2, with the older two files or with a tokenizer.json."""
    write_json(folder / "config.json", {"model_type": "gpt2", "vocab_size": FREE})
    vocab = {token: id for token, id in LEARNT.vocab.items() if not without_end or token != END}
    if older:
        write_json(folder / "vocab.json", vocab)
        merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in LEARNT.merges), ""])
        (folder / "merges.txt").write_text(merges, encoding="utf-8")
    else:
        LEARNT.save(folder)
        (folder / "tokenizer_config.json").unlink()
    for name, content in (("tokenizer_config", config), ("special_tokens_map", named), ("added_tokens", added)):
        if content is not None:
            write_json(folder / f"{name}.json", content)
    return folder


def same_as_transformers(folder: Path, *, quirk: bool = False) -> None:
    """Compare ids of texts and prompts, and the token that ends a text.

    Args:
        folder: The tokenizer's.
        quirk: Transformers forgets that a token is special, so ids of texts in which it is written differ.
    """
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in (TEXT, "", " the", "Dog", "<user>", "the<user>", "  <user>  the"):
        assert ours.encode_prompt(text) == theirs.encode(text, add_special_tokens=False), text
        if not quirk:
            as_text = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
            assert ours.encode(text).tolist() == as_text, text
    assert ours.vocab_size == len(theirs)
    assert ours.end_of_text == theirs.eos_token_id
    ours.save(folder / "saved")
    assert load_tokenizer(folder / "saved").fingerprint == ours.fingerprint


def entry(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | flags


DECODED = {str(FREE - 1): entry(END, special=True), str(FREE): entry("<user>")}
NAMED = {"bos_token": END, "eos_token": END, "unk_token": END}
FOLDERS: dict[str, dict[str, Any]] = {
    "nothing but vocab.json and merges.txt": {},
    "added_tokens.json": {"added": {"<user>": FREE, "[X]": FREE + 1}},
    "added_tokens.json in another order": {"added": {"[X]": FREE + 1, "<user>": FREE}},
    "special_tokens_map.json": {"named": {"pad_token": "<pad>", "eos_token": "</s>"}},
    "both, with a special one among the added": {
        "named": NAMED | {"pad_token": "<pad>", "additional_special_tokens": ["<user>"]},
        "added": {"<pad>": FREE, "<user>": FREE + 1, "[X]": FREE + 2},
    },
    "named tokens with flags": {
        "named": {"mask_token": entry("[X]", lstrip=True, rstrip=True), "eos_token": entry("</s>", normalized=True)}
    },
    "added_tokens_decoder alone": {"config": {"added_tokens_decoder": DECODED}},
    "its flags": {
        "config": {
            "added_tokens_decoder": {
                str(FREE): entry("<user>", lstrip=True, rstrip=True),
                str(FREE + 1): entry("[X]", single_word=True, normalized=True),
                str(FREE + 2): entry("<pad>", special=True),
            }
        }
    },
    "an added token that ends a text": {
        "config": {"added_tokens_decoder": {str(FREE): entry("</s>", special=True)}, "eos_token": "</s>"}
    },
    "a token of the vocabulary that is made special": {
        "config": {"added_tokens_decoder": {str(LEARNT.vocab["the"]): entry("the", special=True)}}
    },
    "names in tokenizer_config.json only": {
        "config": {
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "additional_special_tokens": ["<user>", entry("[X]", special=True) | {"__type": "AddedToken"}],
        }
    },
    "extra tokens by name": {"config": {"extra_special_tokens": {"image_token": "<user>"}, "audio_token": "[X]"}},
    "a space before the text": {"config": {"add_prefix_space": True}},
    "what concerns no ids": {
        "config": {"model_max_length": 16, "do_lower_case": True, "add_bos_token": False, "errors": "replace"}
    },
    "no end of text in the vocabulary": {"without_end": True},
    "no unknown token": {"config": {"unk_token": None, "pad_token": None}},
}


QUIRKS = {"both, with a special one among the added"}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_the_older_files_has_transformers_ids(name: str, tmp_path: Path) -> None:
    same_as_transformers(folder_of(tmp_path, **FOLDERS[name]), quirk=name in QUIRKS)


@pytest.mark.parametrize("name", [name for name, parts in FOLDERS.items() if "without_end" not in parts])
@pytest.mark.parametrize("named_class", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
def test_a_folder_with_a_tokenizer_json_has_transformers_ids(name: str, named_class: str, tmp_path: Path) -> None:
    parts = FOLDERS[name]
    config = {"tokenizer_class": named_class, "eos_token": END, **parts.get("config", {})}
    if config.get("add_prefix_space") and named_class != "GPT2Tokenizer":
        with pytest.raises(
            TokenizerError, match=r"add_prefix_space = false, but tokenizer_config\.json beside it says true"
        ):
            load_tokenizer(folder_of(tmp_path, **parts | {"config": config}, older=False))
        return
    same_as_transformers(folder_of(tmp_path, **parts | {"config": config}, older=False), quirk=name in QUIRKS)


def test_without_declared_tokens_the_tokenizer_is_our_own(tmp_path: Path) -> None:
    assert load_tokenizer(folder_of(tmp_path)).fingerprint == LEARNT.fingerprint


def test_a_file_of_another_name_is_read_by_itself(tmp_path: Path) -> None:
    folder_of(tmp_path, config={"pad_token": "<pad>"}, older=False)
    (tmp_path / "tokenizer.json").rename(tmp_path / "mine.json")
    assert tokenizer_from_spec(str(tmp_path / "mine.json")).fingerprint == LEARNT.fingerprint


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"added": {"<user>": FREE + 5}}, rf"added_tokens.json says that '<user>' has the id {FREE + 5}; .* {FREE}\."),
        ({"config": {"added_tokens_decoder": {"3": entry("<user>")}}}, "'<user>' has the id 3"),
        ({"config": {"added_tokens_decoder": {str(FREE): entry(END)}}}, rf"has the id {FREE}; .* be {FREE - 1}"),
        ({"config": {"added_tokens_decoder": {"x": entry("<user>")}}}, "added_tokens_decoder should map ids to tokens"),
        ({"config": {"added_tokens_decoder": {str(FREE): "<user>"}}}, "added_tokens_decoder, .* is no token"),
        ({"config": {"added_tokens_decoder": []}}, "added_tokens_decoder should map ids to tokens"),
        ({"config": {"added_tokens_decoder": {str(FREE): entry("a") | {"lstrip": 1}}}}, "is no token"),
        ({"config": {"additional_special_tokens": "<user>"}}, "should be a list of tokens"),
        ({"config": {"pad_token": 3}}, "pad_token is no token"),
        ({"config": {"audio_token": {"content": "<a>"}}}, "audio_token is an object, which other programs ignore"),
        ({"config": {"add_prefix_space": "yes"}}, "add_prefix_space is 'yes'; expected true or false"),
        ({"config": {"split_special_tokens": True}}, "split_special_tokens is true"),
        ({"named": {"eos_token": []}}, r"special_tokens_map.json: eos_token is no token"),
        ({"added": {"<user>": "3"}}, "added_tokens.json should map tokens to ids"),
        ({"added": {"<user>": -1}}, "added_tokens.json should map tokens to ids"),
        ({"config": {"tokenizer_class": "Qwen2Tokenizer"}}, r"no byte-level tokenizer like GPT-2's; save .* with a"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(parts: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=words) as caught:
        load_tokenizer(folder_of(tmp_path, **parts))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["added_tokens", "special_tokens_map", "tokenizer_config"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 50_000])
def test_a_damaged_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (folder_of(tmp_path) / f"{name}.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"{name}\.json"):
        load_tokenizer(tmp_path)


def test_merges_that_were_cut_off_are_noticed(tmp_path: Path) -> None:
    merges = folder_of(tmp_path) / "merges.txt"
    lines = merges.read_text(encoding="utf-8").splitlines()
    merges.write_text("\n".join(lines[:-5]), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"vocab\.json has the token .*, which no line of merges\.txt makes"):
        load_tokenizer(tmp_path)
    merges.write_text("\n".join([*lines[:-5], "t"]), encoding="utf-8")
    with pytest.raises(TokenizerError, match="no byte-level tokenizer like GPT-2's"):
        load_tokenizer(tmp_path)
