"""`gpt2`: GPT-2's own tokenizer, from the two files that OpenAI published."""

from __future__ import annotations

import json

from quillgpt.errors import TokenizerError
from quillgpt.text.bpe import GPT2_FINGERPRINT, BytePairTokenizer
from quillgpt.text.downloads import GPT2_MERGES, GPT2_VOCABULARY, fetch


def gpt2_tokenizer() -> BytePairTokenizer:
    """Return GPT-2's tokenizer: 50,257 ids, the last of which ends a text.

    Raises:
        DataError: The published files are neither at hand nor reachable.
        TokenizerError: They do not give the tokenizer that this version of Quill knows.
    """
    vocabulary = json.loads(fetch(GPT2_VOCABULARY).read_text(encoding="utf-8"))
    lines = fetch(GPT2_MERGES).read_text(encoding="utf-8").split("\n")
    merges = [(first, second) for first, second in (line.split(" ") for line in lines[1:] if line)]
    tokenizer = BytePairTokenizer(dict(sorted(vocabulary.items(), key=lambda item: int(item[1]))), merges)
    if tokenizer.fingerprint != GPT2_FINGERPRINT:
        raise TokenizerError("the published GPT-2 files give another tokenizer than expected; please report this")
    return tokenizer
