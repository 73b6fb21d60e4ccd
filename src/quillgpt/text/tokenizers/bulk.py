"""Encodes much text with byte-level merges, by fastokens: the ids of tiktoken, several times as fast.

tiktoken remains the reference, and encodes what is short; tests compare both on characters of every class.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.words import CUT, cuts_between_words, word_starts

LONG_PIECE = 1 << 20
"""Characters; a longer piece, which has hardly any spaces, is cut between words: fastokens takes 80 bytes for each."""

LONG_WORD = 1 << 16
"""Bytes of a word that are encoded at once, in a few hundredths of a second."""


class BulkEncoder:
    """Encodes many texts in one call, without holding Python's lock.

    It is loaded by a thread of its own, which the first call waits for.

    Args:
        content: The content of a tokenizer.json.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        thread = ThreadPoolExecutor(1)
        self._tokenizer = thread.submit(_load, content)
        thread.shutdown(wait=False)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """Return the ids of texts, one text after the other, and where in them each text begins and the last ends."""
        try:
            ids, bounds = self._flat(texts)
        except UnicodeEncodeError:
            ids, bounds = self._flat([without_surrogates(text) for text in texts])
        return np.frombuffer(ids, dtype="<u4"), np.frombuffer(bounds, dtype="<u8").astype(np.int64)

    def _flat(self, texts: Sequence[str]) -> tuple[bytes, bytes]:
        flat: tuple[bytes, bytes] = self._tokenizer.result().encode_batch_flat(list(texts), split_special_tokens=True)
        return flat


def _load(content: dict[str, Any]) -> Any:
    # Threads of Python decide how many cores are used, and fastokens starts none of its own.
    os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
    import fastokens

    return fastokens.Tokenizer.from_json_str(json.dumps(content, ensure_ascii=False))


def divided(piece: str) -> Iterator[str | list[bytes]]:
    """Yield a long piece in parts that are encoded by themselves: text, or the words of a part with a very long one."""
    content = without_surrogates(piece).encode("utf-8")
    cuts = [0, *cuts_between_words(content, LONG_WORD).tolist(), len(content)]
    for start, end in pairwise(cuts):
        part = content[start:end]
        if len(part) <= 2 * LONG_WORD:
            yield part.decode("utf-8")
        else:
            bounds = word_starts(part + CUT).tolist()
            yield [part[begin:stop] for begin, stop in pairwise(bounds)]
