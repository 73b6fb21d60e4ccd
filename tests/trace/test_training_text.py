"""Tokens become the bytes that they were made from, wherever they are cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from quillgpt.errors import DataError
from quillgpt.text.tokenizers.ids import IdTokenizer
from quillgpt.text.tokenizers.tokenizer import tokenizer_from_spec
from quillgpt.trace import training_text
from quillgpt.trace.training_text import DOCUMENT_END, check_has_text, decoded

TEXT = "Ein Bär, ей €5, 𝄞 and \ufffd twice\ufffd.\n" * 40


@pytest.mark.parametrize("spec", ["char", "byte", "bpe:300"])
@pytest.mark.parametrize("at_once", [1, 7, 64, 1 << 18])
def test_text_is_decoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch, spec: str, at_once: int) -> None:
    monkeypatch.setattr(training_text, "TOKENS_AT_ONCE", at_once)
    tokenizer = tokenizer_from_spec(spec, [TEXT])
    pieces = list(decoded(tokenizer.encode(TEXT), tokenizer))
    assert b"".join(pieces).decode() == TEXT


def test_documents_end_with_a_byte_that_no_text_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_text, "TOKENS_AT_ONCE", 3)
    tokenizer = tokenizer_from_spec("byte")
    ids = np.concatenate([tokenizer.encode("one"), [256, 256], tokenizer.encode("<|endoftext|>é"), [256]])
    assert b"".join(decoded(ids, tokenizer)) == b"one\xff\xff" + "<|endoftext|>é".encode() + DOCUMENT_END


def test_ids_without_text_are_refused() -> None:
    dataset = SimpleNamespace(folder=Path("data/x"), tokenizer=IdTokenizer(5))
    with pytest.raises(DataError, match="the text of the tokens in data/x is not known"):
        check_has_text([dataset])  # type: ignore[list-item]
