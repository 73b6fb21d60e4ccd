"""What `quill speak` is given: a model, a text file, standard input, or a text."""

from __future__ import annotations

import codecs
import io
import re
import shlex
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from quillgpt.config.paths import exists, expand, is_path, is_standard_input, is_stream
from quillgpt.console import say
from quillgpt.errors import DataError, UserError, closest
from quillgpt.text.encodings.detection import detect_encoding, read_pieces
from quillgpt.text.encodings.formats import check_format
from quillgpt.text.sources.recording_names import RECORDING_SUFFIXES

PIECE = 1 << 16

MODEL_FILES = frozenset({".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".onnx"})
"""Files of models; loading says which cannot be loaded."""

KNOWN_FILES = MODEL_FILES | {*RECORDING_SUFFIXES} | {".txt", ".md", ".epub", ".pdf", ".html", ".json", ".csv"}

PUBLISHED = re.compile(r"gpt2(-\w+)?|\w[\w.-]*/\w[\w.-]*")
"""The name of a model on the hub."""

LIKE_A_RUN = re.compile(r"out-\S+")
SHORTEST_NAME = 5
"""Letters; a shorter word is too easily close to the name of a file."""


def model_in(word: str) -> bool:
    """Return whether a word names a model: a folder, a checkpoint of nanoGPT, or a name on the hub.

    Raises:
        UserError: It looks like the name of a file or folder that is not there.
    """
    path = expand(word)
    if is_standard_input(word) or not word.strip():
        return False
    if exists(path):
        return path.is_dir() or path.suffix.lower() in MODEL_FILES
    is_one_word = re.search(r"\s", word) is None
    if not _is_missing(word, is_one_word=is_one_word):
        return False
    is_local = path.suffix.lower() in KNOWN_FILES or LIKE_A_RUN.fullmatch(word) or ("/" in word and exists(path.parent))
    if PUBLISHED.fullmatch(word) and not is_local:
        return True
    meant = _near(path)
    hint = f"did you mean {meant}?" if meant else "give a model's folder or a text file."
    words = f"To hear these words themselves: echo {shlex.quote(word)} | quill speak -"
    raise UserError(f"there is no file or folder {word}; {hint} {words}")


def read_text(word: str) -> Iterator[str]:
    """Yield the text that a word names, in pieces: of a file, a pipe or standard input; else the word itself.

    Raises:
        DataError: It is not a text.
    """
    path = expand(word)
    if is_standard_input(word):
        if sys.stdin.isatty():
            say("Reading what you type; Ctrl-D on an empty line ends it")
        return _read_stream(sys.stdin.buffer, "standard input")
    if is_stream(path):
        return _read_pipe(path)
    if not exists(path) or not word.strip():
        return iter([word])
    if not path.is_file():
        raise DataError(f"{word} is neither a file nor a folder; give a text file, or a text in quotes")
    return read_pieces(path, detect_encoding(path), PIECE)


def _is_missing(word: str, *, is_one_word: bool) -> bool:
    """Return whether a word of which there is no file looks like the name of one."""
    suffix = Path(word).suffix.lower()
    if word.startswith(("/", "./", "../", "~/", ".\\", "..\\")):
        return "\n" not in word
    if not is_one_word:
        return is_path(word) and suffix in KNOWN_FILES
    return bool(
        is_path(word)
        or suffix in KNOWN_FILES
        or PUBLISHED.fullmatch(word)
        or LIKE_A_RUN.fullmatch(word)
        or (len(word) >= SHORTEST_NAME and _near(expand(word)))
    )


def _near(path: Path) -> str | None:
    """Return the path of a file beside a missing one whose name is close to its name."""
    try:
        name = closest(path.name, [beside.name for beside in path.parent.iterdir()])
    except (OSError, ValueError):
        return None
    return str(path.parent / name) if name else None


def _read_pipe(path: Path) -> Iterator[str]:
    with path.open("rb") as pipe:
        yield from _read_stream(pipe, str(path))


def _read_stream(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yield UTF-8 text from a stream as it comes."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    assert isinstance(stream, BufferedReader)
    is_first = True
    while chunk := stream.read1(PIECE):
        if is_first:
            _check_is_text(chunk, name)
            is_first = False
        yield _decoded(decoder, chunk, name)
    yield _decoded(decoder, b"", name)


def _check_is_text(start: bytes, name: str) -> None:
    try:
        check_format(start, name)
    except DataError:  # which gives advice for a file
        raise DataError(
            f"{name} is not plain text; give a text, or a recording to quill transcribe, to turn it into text"
        ) from None


def _decoded(decoder: io.IncrementalNewlineDecoder, chunk: bytes, name: str) -> str:
    try:
        return decoder.decode(chunk, final=not chunk).replace("\0", "")
    except UnicodeDecodeError:
        raise DataError(
            f"{name} is not UTF-8 text; give the file itself, whose encoding is detected: quill speak FILE"
        ) from None
