"""Encodes batches in order, in this process or in several; the tokens are the same."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Self, cast

from quillgpt.data.token_file import EncodedBatch, PieceBatch, encode_batch
from quillgpt.errors import UserError
from quillgpt.process import usable_cores, why_it_ended
from quillgpt.text.tokenizers.tokenizer import Tokenizer

CHARACTERS_PER_PROCESS = 1 << 23
"""For less text, starting a process costs more time than it saves."""

Encode = Callable[[Iterable[PieceBatch]], Iterator[EncodedBatch]]
"""Encodes batches in their order."""

_PROCESS = Path(__file__).with_name("encoding_process.py")


def number_of_processes(wanted: int | None, characters: int, characters_per_batch: int) -> int:
    """Return the number of processes that encode a text.

    Args:
        wanted: The number that the user gave; None takes one for each core, and fewer for a short text.
        characters: The length of the text.
        characters_per_batch: About how many characters are encoded at once.
    """
    if wanted is None:
        return max(1, min(usable_cores(), characters // CHARACTERS_PER_PROCESS))
    return max(1, min(wanted, characters // characters_per_batch))


@contextmanager
def encoders(tokenizer: Tokenizer, dtype: str, *, processes: int, folder: Path) -> Iterator[Encode]:
    """Yield a function that encodes batches in their order, in this process or in others.

    The others end with the block, and with this process, in whatever way it ends.

    Args:
        tokenizer: The tokenizer.
        dtype: The type of ids in the token file.
        processes: How many processes encode; 1 encodes in this one.
        folder: A folder in which the tokenizer is saved.

    Raises:
        ChildProcessError: A process was killed or has failed.
    """
    if processes == 1:
        yield lambda batches: (encode_batch(batch, tokenizer, dtype) for batch in batches)
        return
    with ExitStack() as stack:
        running = [stack.enter_context(_EncodingProcess(folder, dtype)) for _ in range(processes)]
        free: SimpleQueue[_EncodingProcess] = SimpleQueue()
        for process in running:
            free.put(process)
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        for process in running:  # killed first, so that no thread waits for an answer
            stack.callback(process.kill)

        def encode(batch: PieceBatch) -> EncodedBatch:
            process = free.get()
            try:
                return process.encode(batch)
            finally:
                free.put(process)

        def in_order(batches: Iterable[PieceBatch]) -> Iterator[EncodedBatch]:
            waiting: deque[Future[EncodedBatch]] = deque()
            for batch in batches:
                waiting.append(pool.submit(encode, batch))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield in_order


class _EncodingProcess:
    """A process that encodes one batch after the other."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,  # so that Ctrl-C goes to this process alone, which ends the others
        )
        self._is_ready = False
        self._folder, self._dtype = folder, dtype

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(OSError):  # what the process did not read
                cast("IO[bytes]", file).close()

    def encode(self, batch: PieceBatch) -> EncodedBatch:
        """Return the tokens of a batch.

        Raises:
            TokenizerError: The tokenizer cannot represent the text.
            ChildProcessError: The process was killed or has failed.
        """
        try:
            if not self._is_ready:
                self._send((sys.path, str(self._folder), self._dtype))
                self._is_ready = True
            self._send(batch)
            assert self._process.stdout is not None
            answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.kill()
            raise ChildProcessError(
                f"a process that encodes ended: {why_it_ended(self._process.wait(), self._complaints)}"
            ) from error
        if isinstance(answer, UserError):
            raise answer
        return cast("EncodedBatch", answer)

    def kill(self) -> None:
        """End the process."""
        self._process.kill()

    def _send(self, content: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(content, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()
