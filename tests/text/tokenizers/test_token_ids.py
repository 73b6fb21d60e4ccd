"""Ids in a tokenizer.json may have gaps, but not such that tables of them fill the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import models

from quillgpt.errors import TokenizerError
from quillgpt.text.tokenizers.bpe import BytePairTokenizer
from quillgpt.text.tokenizers.tokenizer import Tokenizer, load_tokenizer


def with_ids(folder: Path, *ids: int) -> Tokenizer:
    """Load a tokenizer of words that has these ids."""
    content: dict[str, Any] = json.loads(Engine(models.WordLevel({"word0": 0}, unk_token="word0")).to_str())
    content["model"]["vocab"] = {f"word{id}": id for id in ids}  # the library would write out all ids between
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return load_tokenizer(folder)


@pytest.mark.parametrize("largest", [100_000, 2**24, 2**31, 2**32 - 2])
def test_an_id_far_above_the_number_of_tokens_is_refused_in_one_line(tmp_path: Path, largest: int) -> None:
    with pytest.raises(TokenizerError) as caught:
        with_ids(tmp_path, 0, 1, largest)
    message = str(caught.value)
    assert "tokenizer.json" in message
    assert f"id {largest}" in message
    assert "3 tokens" in message
    assert "\n" not in message


def test_ids_may_have_gaps(tmp_path: Path) -> None:
    tokenizer = with_ids(tmp_path, 0, 5, 50_000)
    assert tokenizer.vocab_size == 50_001
    lengths = tokenizer.byte_lengths()
    assert (lengths[50_000], lengths.sum()) == (len("word50000"), len("word0word5word50000"))


@pytest.mark.parametrize("odd", [True, 1.0])
def test_a_value_that_only_equals_an_integer_is_no_id(tmp_path: Path, odd: object) -> None:
    BytePairTokenizer.train(["the dog, the dog"], 260).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    token = next(token for token, id in content["model"]["vocab"].items() if id == 1)
    content["model"]["vocab"][token] = odd
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(TokenizerError, match="describes no usable tokenizer"):
        load_tokenizer(tmp_path)
