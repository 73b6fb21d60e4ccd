"""Reads nanoGPT's meta.pkl without running code in it."""

from __future__ import annotations

from pathlib import Path

from quillgpt.errors import DataError, cut
from quillgpt.text.tokenizers.char import CharTokenizer
from quillgpt.text.tokenizers.ids import IdTokenizer
from quillgpt.text.tokenizers.plain_pickle import MOST_BYTES, CodeError, PickleError, read_plain_pickle


def read_nanogpt_meta(path: Path) -> CharTokenizer | IdTokenizer:
    """Return the tokenizer that a nanoGPT meta.pkl describes.

    That is the table `itos` from id to character, or without it the plain ids below `vocab_size`.

    Raises:
        DataError: The file wants to run code, is damaged, or has neither.
        TokenizerError: Its vocab_size is not possible in token files.
    """
    try:
        with path.open("rb") as file:
            meta = read_plain_pickle(file.read(MOST_BYTES + 1))
    except CodeError as error:
        raise DataError(
            f"{path} is not plain data: {cut(str(error))}; Quill runs no code from data files, so leave it out"
        ) from None
    except PickleError as error:
        raise DataError(f"{path} is damaged ({cut(str(error))}); make it again with nanoGPT's prepare.py") from error
    table, size = (meta.get("itos"), meta.get("vocab_size")) if isinstance(meta, dict) else (None, None)
    if table is None and isinstance(size, int) and not isinstance(size, bool):
        return IdTokenizer(size)
    if isinstance(table, dict) and all(isinstance(token, int) for token in table):
        table = [table.get(token) for token in range(len(table))]
    if not isinstance(table, list) or not table or not all(isinstance(c, str) and len(c) == 1 for c in table):
        raise DataError(
            f"{path} should hold nanoGPT's table itos, id to character, or a vocab_size; prepare the text again with "
            "quill"
        )
    if len(set(table)) != len(table):
        raise DataError(f"{path} gives one character two ids; prepare the text again with quill")
    return CharTokenizer(table)
