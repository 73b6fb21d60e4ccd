"""Drawing whole samples: several at once; the first is streamed, and every sample is yielded when it has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from quillgpt.config.paths import expand
from quillgpt.config.schema import Sampling
from quillgpt.console import say, warn
from quillgpt.errors import TokenizerError, UserError, shorten
from quillgpt.generation.generate import generate_ids, samples_at_once
from quillgpt.generation.stream import TextStream
from quillgpt.model import GPT
from quillgpt.text.encodings.detection import detect_encoding, read_pieces
from quillgpt.text.tokenizers.tokenizer import Tokenizer
from quillgpt.text.tokenizers.tokenizer_files import END_OF_TEXT, START_OF_TEXT

FILE_PREFIX = "FILE:"
LONGEST_PROMPT = 1 << 24
"""Characters; far above the context of any model."""

TextListener = Callable[[str], object]
"""Receives pieces of text as they become certain."""


@dataclass(frozen=True)
class Sample:
    """One generated text.

    Attributes:
        prompt: The prompt.
        text: The generated text, without the prompt.
        ids: The generated ids.
        finish_reason: `length`, `end_of_text` or `stop`.
    """

    prompt: str
    text: str
    ids: list[int]
    finish_reason: str


def read_start(start: str) -> str:
    """Return the prompt that `--start` gives: the text itself, or the content of the file in `FILE:path`.

    Raises:
        UserError: The file cannot be read, is not a text, or is too long.
    """
    if not start.startswith(FILE_PREFIX):
        return start
    path = expand(start.removeprefix(FILE_PREFIX))
    try:
        if path.is_file():
            text = ""
            for piece in read_pieces(path, detect_encoding(path), LONGEST_PROMPT + 1):
                text += piece
                if len(text) > LONGEST_PROMPT:
                    break
        else:  # a pipe, which can be read only once
            with path.open(encoding="utf-8-sig") as stream:
                text = stream.read(LONGEST_PROMPT + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(
            f"the prompt file {path} cannot be read ({reason}); give FILE:path with the path of a text file"
        ) from None
    if len(text) > LONGEST_PROMPT:
        raise UserError(f"the prompt file {path} has more than {LONGEST_PROMPT:,} characters; give the end of it")
    return text


def as_in_texts(prompt: str) -> str:
    r"""Return the prompt as texts are read: line ends `\r\n` and `\r` become `\n`, a byte-order mark is dropped."""
    return prompt.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def prompt_ids(tokenizer: Tokenizer, start: str | None, *, starts_with_end_of_text: bool) -> tuple[str, list[int]]:
    """Return the prompt as text and ids.

    Without a start, the prompt is end-of-text if the model's documents start with it; else a newline; else, if the
    tokenizer has no newline, its first token.

    Raises:
        TokenizerError: The tokenizer lacks a character of the prompt, or encodes the prompt to no token.
    """
    if start and (start := as_in_texts(start)):
        ids = tokenizer.encode_prompt(start)
        if not ids:
            raise TokenizerError(
                f"the tokenizer {tokenizer.name} encodes no token of the prompt {shorten(start)}; give another"
            )
        return start, ids
    if starts_with_end_of_text and tokenizer.end_of_text is not None:
        return "", [tokenizer.end_of_text]
    with suppress(UserError):
        if ids := tokenizer.encode_prompt("\n"):
            return "\n", ids
    return tokenizer.decode([0]), [0]


def with_known_start(tokenizer: Tokenizer, start: str) -> str:
    """Replace `<|startoftext|>` in the prompt by end-of-text, after which the model begins a document.

    If the tokenizer has a token of this name, the prompt stays as it is.
    """
    if START_OF_TEXT not in start or len(tokenizer.encode_prompt(START_OF_TEXT)) == 1:
        return start
    say(f"{START_OF_TEXT} in the prompt is read as {END_OF_TEXT}, after which this model begins a document")
    return start.replace(START_OF_TEXT, END_OF_TEXT)


def without_unknown_end(tokenizer: Tokenizer, start: str) -> str:
    """Drop end-of-text from the prompt of a model that never saw it in training.

    If the tokenizer has no such token, `<|endoftext|>` is ordinary text and stays if its characters can be encoded.
    """
    if END_OF_TEXT not in start:
        return start
    if tokenizer.end_of_text is None:
        with suppress(UserError):
            tokenizer.encode_prompt(END_OF_TEXT)
            return start
    warn(
        f"this model never learned an end of text, so {END_OF_TEXT} is left out of the prompt; it learns one from "
        "several documents, or from a text prepared with --end_of_text_marks, and with a tokenizer other than char"
    )
    return start.replace(END_OF_TEXT, "")


def draw_samples(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: tuple[str, list[int]],
    settings: Sampling,
    *,
    on_text: TextListener | None = None,
) -> Iterator[Sample]:
    """Yield the samples in order, each as soon as it has ended; as many are computed together as memory has room for.

    Args:
        model: The model, in evaluation mode, on its device.
        tokenizer: Its tokenizer.
        prompt: Text and ids of the prompt.
        settings: How many samples, how many tokens at most, and how tokens are chosen.
        on_text: Receives the text of the first sample, piece by piece as it becomes certain.
    """
    unknown = next((id for id in prompt[1] if id >= model.config.vocab_size), None)
    if unknown is not None:
        raise TokenizerError(
            f"the prompt has the token {tokenizer.decode([unknown])!r}, which the model does not know; leave it out"
        )
    at_once = samples_at_once(model, prompt[1], settings)
    for first in range(0, settings.num_samples, at_once):
        samples = range(first, min(first + at_once, settings.num_samples))
        yield from _draw_together(model, tokenizer, prompt, settings, samples, None if first else on_text)


def _draw_together(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: tuple[str, list[int]],
    settings: Sampling,
    samples: range,
    on_text: TextListener | None,
) -> Iterator[Sample]:
    stops = [as_in_texts(settings.stop or "")]
    streams = [TextStream(tokenizer, stops) for _ in samples]
    vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
    yielded = 0

    def ended(stream: TextStream) -> Sample:
        if on_text and stream is streams[0] and (rest := stream.new_text(final=True)):
            on_text(rest)
        return Sample(prompt[0], stream.text(), stream.ids, stream.finish_reason or "length")

    for tokens in generate_ids(model, prompt[1], settings, vocab_size=vocab_size, samples=samples):
        for stream, token in zip(streams, tokens.tolist(), strict=True):
            stream.push(token)
        if on_text and not yielded and (fresh := streams[0].new_text()):
            on_text(fresh)
        while yielded < len(streams) and streams[yielded].finish_reason:
            yield ended(streams[yielded])
            yielded += 1
        if yielded == len(streams):
            return
    yield from map(ended, streams[yielded:])
