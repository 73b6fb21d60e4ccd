"""The process that learns merges: reads the text from standard input, writes vocabulary and merges to standard output.

`quillgpt.text.tokenizers.merges` runs this file. It imports nothing of Quill, so that it starts quickly.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

WATCH_SECONDS = 0.5


def main() -> None:
    """Read a request, one line of JSON, and the text that follows; write what was learned."""
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with, args=(request["parent"],), daemon=True).start()
    sys.path[:] = request["path"]
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=request["tokens"],
        min_frequency=2,
        initial_alphabet=request["alphabet"],
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(_pieces(sys.stdin.buffer), trainer)
    model = json.loads(learner.to_str())["model"]
    json.dump({"vocab": model["vocab"], "merges": model["merges"]}, sys.stdout)


def _pieces(file: BinaryIO) -> Iterator[str]:
    while size := int.from_bytes(file.read(8), "little"):
        yield file.read(size).decode("utf-8")


def _end_with(parent: int) -> None:
    """Exit when the parent process has ended in whatever way."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
