"""The process that encodes: reads batches of text from standard input, writes their ids to standard output.

`quillgpt.data.encoders` runs this file, which ends with the process that started it.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path


def main() -> None:
    """Read what to encode with, and encode batches until there are no more."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that nothing that a library prints is taken for an answer
    sys.path[:], folder, dtype = pickle.load(requests)

    from quillgpt.data.token_file import encode_batch
    from quillgpt.errors import UserError
    from quillgpt.text.tokenizers.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(folder))
    while True:
        try:
            batch = pickle.load(requests)
        except EOFError:
            return
        answer: object
        try:
            answer = encode_batch(batch, tokenizer, dtype)
        except UserError as error:
            answer = error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the process that asked has ended
        os._exit(1)
