"""`gpt2`: GPT-2's own tokenizer, from the two files that OpenAI published."""

from __future__ import annotations

import json
from operator import itemgetter
from pathlib import Path

from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY, fetch
from quillgpt.text.tokenizers.bpe import GPT2_FINGERPRINT, BytePairTokenizer

GPT2_SAVED_SHA256 = "59c49d24d834febdf43804729bc96b6dd7356c525ba29d0b3355a45ccfeb595e"
"""Hash of the tokenizer.json that Quill writes for GPT-2; a file with this hash need not be validated."""


def gpt2_tokenizer() -> BytePairTokenizer:
    """Return GPT-2's tokenizer: 50,257 ids, of which the last is end of text.

    Raises:
        DataError: The published files are neither in the cache nor reachable.
    """
    vocabulary = json.loads(fetch(GPT2_VOCABULARY).read_text(encoding="utf-8"))
    _version, _, merges = fetch(GPT2_MERGES).read_text(encoding="utf-8").partition("\n")
    tokens = merges.split()
    in_order = dict(sorted(vocabulary.items(), key=itemgetter(1)))
    pairs = list(zip(tokens[::2], tokens[1::2], strict=True))
    return BytePairTokenizer(in_order, pairs, fingerprint=GPT2_FINGERPRINT)


def saved_gpt2_tokenizer(path: Path) -> BytePairTokenizer:
    """Return GPT-2's tokenizer from a tokenizer.json whose hash is `GPT2_SAVED_SHA256`."""
    model = json.loads(path.read_bytes())["model"]
    own = {token: token for token in model["vocab"]}  # sharing the strings of pairs and tokens saves 10 MB
    merges = [(own[first], own[second]) for first, second in model["merges"]]
    return BytePairTokenizer(model["vocab"], merges, fingerprint=GPT2_FINGERPRINT)
