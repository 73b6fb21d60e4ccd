"""Learns the merges of byte-pair encoding, in bounded time for every text, with progress, and interruptible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from quillgpt.console import progress, say
from quillgpt.errors import TokenizerError
from quillgpt.process import why_it_ended
from quillgpt.stopping import activity
from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.tokenizers.byte_alphabet import BYTE_TO_CHARACTER
from quillgpt.text.tokenizers.words import CUT, last_cut_of_gpt2, word_starts

LONGEST_WORD = 1024
"""Bytes; a longer word is cut before learning, since the time of a merge grows with the length of its word."""

_LEARNER = Path(__file__).with_name("merge_learner.py")
_PIECE = 1 << 16
_MOST_WAITING = 1 << 20
_LOOKAHEAD = 4  # bytes after the beginning of a word that can decide whether it is one
_SECONDS_OF_SILENCE = 10.0


def learn_merges(pieces: Iterable[str], tokens: int, *, name: str) -> tuple[dict[str, int], list[list[str]]]:
    """Learn a vocabulary and merges from a text; the same text gives the same ones.

    A process of its own learns them: its library does not react to signals, but a process can be killed.

    Args:
        pieces: The text, cut anywhere.
        tokens: The number of tokens, including one for each byte; too small a text gives fewer.
        name: The tokenizer's name, for messages.

    Raises:
        TokenizerError: The process ended without a result.
    """
    request = {"tokens": tokens, "alphabet": sorted(BYTE_TO_CHARACTER), "path": sys.path, "parent": os.getpid()}
    with (
        tempfile.TemporaryFile() as learned,
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            [sys.executable, "-I", str(_LEARNER)],
            stdin=subprocess.PIPE,
            stdout=learned,
            stderr=complaints,
            start_new_session=True,  # so that Ctrl-C goes to this process alone
        ) as process,
        activity(f"while {name} was learned; nothing of it is kept, and the same command starts again"),
    ):
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended; its status and its messages say why
                _send(request, pieces, process.stdin, name)
            _wait(process, name)
        except BaseException:
            process.kill()
            raise
        if process.returncode != 0:
            advice = "; give a smaller number of tokens, or less text" if process.returncode < 0 else ""
            raise TokenizerError(f"{name} could not be learned: {why_it_ended(process.returncode, complaints)}{advice}")
        learned.seek(0)
        result: dict[str, Any] = json.load(learned)
    return result["vocab"], result["merges"]


def _send(request: dict[str, Any], pieces: Iterable[str], file: IO[bytes], name: str) -> None:
    with file, progress(f"Reading for {name}, characters", None) as advance:
        file.write(json.dumps(request).encode() + b"\n")
        for piece in learnable(pieces):
            content = piece.encode("utf-8")
            file.write(len(content).to_bytes(8, "little") + content if content else b"")
            advance(len(piece))
        file.write(bytes(8))


def _wait(process: subprocess.Popen[bytes], name: str) -> None:
    started, wait = time.monotonic(), _SECONDS_OF_SILENCE
    with progress(f"Learning {name}", None):
        while True:
            try:
                process.wait(wait)
                return
            except subprocess.TimeoutExpired:
                seconds = time.monotonic() - started
                say(f"learning {name} for {seconds:.0f} s so far; Ctrl-C stops it")
                wait = seconds  # twice as long each time


def learnable(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text cut between words of GPT-2's pattern, so that the cuts do not change what is learned.

    Words longer than `LONGEST_WORD` are also cut.
    """
    for piece in _cut_between_words(_short(pieces)):
        yield from _cut_long_words(piece)


def _short(pieces: Iterable[str]) -> Iterator[str]:
    # The trainer reads some hundred pieces ahead, whatever their length, so they are kept short.
    return (piece[at : at + _PIECE] for piece in pieces for at in range(0, len(piece), _PIECE))


def _cut_between_words(pieces: Iterable[str]) -> Iterator[str]:
    rest: list[str] = []
    before, length = "", 0
    for piece in pieces:
        cut = last_cut_of_gpt2(before + piece) - len(before)
        if cut >= 0 and (cut or rest):
            yield "".join([*rest, piece[:cut]])
            rest, length = [], 0
            piece = piece[cut:]
        rest.append(piece)
        before = piece[-1:] or before
        length += len(piece)
        if length > _MOST_WAITING:
            whole = "".join(rest)
            cut = _last_word(whole)
            yield whole[:cut]
            rest, length = [whole[cut:]], len(whole) - cut
    yield "".join(rest)


def _last_word(text: str) -> int:
    """Return the start of the last word without white space before it; the end of the text if that is far from it."""
    content = without_surrogates(text).encode("utf-8")
    starts = word_starts(content + CUT)
    starts = starts[(starts > len(content) // 2) & (starts <= len(content) - _LOOKAHEAD)]
    for start in reversed(starts.tolist()):
        character = content[start - _LOOKAHEAD : start].decode("utf-8", "ignore")[-1]
        if not character.isspace():
            return len(content[:start].decode("utf-8"))
    return len(text)


def _cut_long_words(text: str) -> Iterator[str]:
    content = without_surrogates(text).encode("utf-8")
    starts = word_starts(content + CUT)
    lengths = np.diff(starts)
    done = 0
    for word in np.flatnonzero(lengths > LONGEST_WORD).tolist():
        begin, end = int(starts[word]), int(starts[word] + lengths[word])
        while end - max(begin, done) > LONGEST_WORD:
            cut = max(begin, done) + LONGEST_WORD
            while content[cut] & 0xC0 == 0x80:  # in the middle of a character
                cut -= 1
            yield content[done:cut].decode("utf-8")
            done = cut
    yield content[done:].decode("utf-8")
