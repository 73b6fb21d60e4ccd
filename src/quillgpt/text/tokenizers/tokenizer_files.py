"""What all tokenizers share: their two files, their fingerprint, and the end-of-text token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.errors import TokenizerError
from quillgpt.files import write_json, write_text
from quillgpt.records import read_record

END_OF_TEXT, START_OF_TEXT = "<|endoftext|>", "<|startoftext|>"
TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


def tokenizer_fingerprint(content: dict[str, Any]) -> str:
    """Return the SHA-256 of a tokenizer.json's content; the order of keys and white space in the file do not matter."""
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def save_tokenizer(folder: Path, content: dict[str, Any], *, kind: str, end_of_text: str | None) -> None:
    """Write tokenizer.json and tokenizer_config.json, each atomically.

    Args:
        folder: The folder to write to; made if missing.
        content: The content of tokenizer.json.
        kind: The name as one types it for `--tokenizer`; for readers only, never used on loading.
        end_of_text: The token that ends a text, or None.
    """
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text is not None:
        config |= {"bos_token": end_of_text, "eos_token": end_of_text}
    # On one line: with indentation, Python takes eight times as long for the 100,000 entries of GPT-2's file.
    write_text(folder / TOKENIZER_FILE, json.dumps(content, ensure_ascii=False) + "\n")
    write_json(folder / CONFIG_FILE, config | {"quill_tokenizer": kind})


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of a tokenizer.

    Raises:
        TokenizerError: The file cannot be read or is no JSON object.
    """
    return read_record(path, dict[str, Any], TokenizerError, mend="restore it or make it again")


def added_token(content: str, token_id: int) -> dict[str, Any]:
    """Return the entry of a special token in tokenizer.json."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, **plain, "special": True}


def tokenizer_content(**parts: Any) -> dict[str, Any]:
    """Return the content of a tokenizer.json with the given parts; the others are null or empty."""
    empty: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": None,
    }
    return empty | parts


def byte_level_bpe(
    vocab: dict[str, int], merges: Sequence[Sequence[str]], end_of_text: int | None, *, use_regex: bool
) -> dict[str, Any]:
    """Return the tokenizer.json content of a byte-level BPE tokenizer like GPT-2's.

    Args:
        vocab: Ids by token, in the printable spelling of bytes.
        merges: Pairs that become one token, most frequent first.
        end_of_text: The end-of-text id, or None if it is not known here.
        use_regex: Split the text into GPT-2's words first; not needed without merges.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return tokenizer_content(
        added_tokens=[] if end_of_text is None else [added_token(END_OF_TEXT, end_of_text)],
        pre_tokenizer=byte_level,
        decoder=byte_level,
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    )


def checked_ids(ids: Sequence[int] | NDArray[Any], *, name: str, vocab_size: int) -> NDArray[np.int64]:
    """Return ids as an array, after checking that the tokenizer has all of them.

    Raises:
        TokenizerError: An id is negative or not below `vocab_size`.
    """
    try:
        array = np.asarray(ids, dtype=np.int64)
    except OverflowError:  # larger than int64 holds; Python compares them
        array = np.asarray(ids, dtype=object)
    wrong = array[(array < 0) | (array >= vocab_size)]
    if wrong.size:
        raise TokenizerError(
            f"token id {int(wrong[0])} is outside the tokenizer {name}, whose ids are 0 to {vocab_size - 1}; "
            "use the tokenizer that made the ids"
        )
    return array
