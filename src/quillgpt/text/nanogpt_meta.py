"""nanoGPT's meta.pkl, read without running anything that it may contain."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from quillgpt.errors import DataError
from quillgpt.text.char import CharTokenizer


class _DataOnly(pickle.Unpickler):
    """Builds the plain values of a pickle, and refuses every name that it wants to import."""

    def find_class(self, module: str, name: str) -> Any:
        raise DataError(f"it wants to run {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - the library's signature
        raise DataError("it refers to objects outside the file")


def read_nanogpt_meta(path: Path) -> CharTokenizer:
    """Return the tokenizer that a nanoGPT meta.pkl describes: its `itos` table, id to character.

    Raises:
        DataError: The file wants to run code, is damaged, or is not a table of characters.
    """
    try:
        # The default encoding of old pickles turns bytes into text; nanoGPT's tables hold no bytes.
        meta = _DataOnly(io.BytesIO(path.read_bytes())).load()
    except DataError as error:
        raise DataError(
            f"{path} is not plain data: {error}; Quill runs no code from data files, so leave it out"
        ) from None
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f"{path} is damaged ({error}); make it again with nanoGPT's prepare.py") from error
    table = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(table, dict) and all(isinstance(token, int) for token in table):
        table = [table.get(token) for token in range(len(table))]
    if not isinstance(table, list) or not table or not all(isinstance(c, str) and len(c) == 1 for c in table):
        raise DataError(f"{path} should hold nanoGPT's table itos, id to character; prepare the text again with quill")
    if len(set(table)) != len(table):
        raise DataError(f"{path} gives one character two ids; prepare the text again with quill")
    return CharTokenizer(table)
