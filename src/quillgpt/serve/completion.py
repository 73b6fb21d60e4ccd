"""A completion, computed step by step: what each token adds to each sample.

Every sample is computed as `quill sample` does it, from the same settings and random numbers, so its text is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from quillgpt.api import Model
from quillgpt.config.schema import Sampling
from quillgpt.device import autocast
from quillgpt.errors import TokenizerError, UserError
from quillgpt.generation import generate_ids
from quillgpt.generation.generate import LastPrompt, samples_at_once
from quillgpt.generation.sample import as_in_texts
from quillgpt.generation.stream import INCOMPLETE, TextStream
from quillgpt.serve.chat_template import ChatTemplate, read_chat_template
from quillgpt.serve.protocol import CompletionRequest, FinishReason
from quillgpt.trace import Tracer

NAMELESS = "<|token "
"""How tokens that are no text of their own are called, before their id."""

POSITIONS_AT_ONCE = 256
"""Positions of a prompt whose logits are computed together."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text: how likely it was, and what was likelier.

    Attributes:
        token: Its text, which no other token has.
        logprob: Natural logarithm of its probability; None for the first token of a prompt, which nothing predicts.
        top: The likeliest tokens and the token itself.
    """

    token: str
    logprob: float | None
    top: dict[str, float] | None


@dataclass
class Piece:
    """What a step adds to one sample."""

    index: int
    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None


class Vocabulary:
    """Names of a model's tokens, all different."""

    def __init__(self, model: Model) -> None:
        tokenizer = model.tokenizer
        self.size = min(tokenizer.vocab_size, model.config.vocab_size)
        names = [tokenizer.decode([id]) for id in range(self.size)]
        taken: set[str] = set()
        for id, name in enumerate(names):
            if not name or INCOMPLETE in name or name in taken:
                names[id] = name = f"{NAMELESS}{id}|>"
            taken.add(name)
        self.names = names

    def bias(self, given: dict[str, float] | None) -> Tensor | None:
        """Return what a request adds to the logits, (V,).

        Raises:
            UserError: An id is none of the model's.
        """
        if not given:
            return None
        bias = torch.zeros(self.size)
        for key, value in given.items():
            if not (key.isascii() and key.isdecimal() and int(key) < self.size):
                raise UserError(f"logit_bias has {key[:40]!r}; expected ids from 0 to {self.size - 1}")
            bias[int(key)] = value
        return bias

    def logprobs(self, logits: Tensor) -> Tensor:
        """Return the logarithms of probabilities (N, V) on the CPU, given logits that may have padding too."""
        return logits.log_softmax(-1)[:, : self.size].cpu()

    def of(self, id: int, logprobs: Tensor, count: int) -> TokenLogprob:
        """Return a token with its logarithm, and the `count` likeliest beside it, of those of all tokens (V,)."""
        values, ids = logprobs.topk(min(count, self.size))
        top = {self.names[other]: value for other, value in zip(ids.tolist(), values.tolist(), strict=True)}
        own = float(logprobs[id])
        return TokenLogprob(self.names[id], own, top | {self.names[id]: own} if count else None)


class ServedModel:
    """A model under the name by which clients ask for it.

    Args:
        name: The name.
        model: The model.
        data_dir: The folder of data sets, for tracing.
    """

    def __init__(self, name: str, model: Model, *, data_dir: str = "data") -> None:
        self.name = name
        self.model = model
        self._data_dir = data_dir
        self.vocabulary = Vocabulary(model)
        self._last_prompt = LastPrompt()

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """How the model's makers write messages as a text; None if they do not say."""
        return read_chat_template(self.model.folder)

    def chat_prompt(self, messages: Sequence[Mapping[str, str]], template: ChatTemplate) -> list[int]:
        """Return messages as a prompt.

        Raises:
            UserError: The template refuses them, or makes nothing of them.
        """
        prompt = self.model.tokenizer.encode_prompt(template.render(messages))
        if not prompt:
            raise UserError("the model's chat template writes nothing for these messages; send others")
        return prompt

    @cached_property
    def tracer(self) -> Tracer:
        """What traces texts to the model's training text; errors are those of `Model.tracer`."""
        return self.model.tracer(data_dir=self._data_dir)

    def prompts(self, request: CompletionRequest) -> list[tuple[str, list[int]]]:
        """Return the prompts of a request as texts and ids.

        Raises:
            UserError: A prompt cannot be encoded, or is too long with the tokens that are asked for.
        """
        given = request.prompt
        several = isinstance(given, list) and bool(given) and not isinstance(given[0], int)
        prompts = [self._prompt(prompt) for prompt in (given if several else [given])]  # type: ignore[union-attr,arg-type]
        context = self.model.config.block_size
        for _, ids in prompts:
            if len(ids) + request.tokens > context:
                raise UserError(
                    f"this model's context is {context} tokens; the prompt has {len(ids)} and max_tokens is "
                    f"{request.tokens}, {len(ids) + request.tokens} together; shorten one of them"
                )
        return prompts

    def _prompt(self, given: str | list[int] | None) -> tuple[str, list[int]]:
        if isinstance(given, list):
            if unknown := next((id for id in given if id >= self.vocabulary.size), None):
                raise TokenizerError(f"the prompt has the id {unknown}; this model has {self.vocabulary.size} tokens")
            return self.model.tokenizer.decode(given), given
        text, ids = self.model.prompt(given)
        if unknown := next((id for id in ids if id >= self.vocabulary.size), None):
            raise TokenizerError(f"the prompt has the token {self.model.tokenizer.decode([unknown])!r}, unknown here")
        return text, ids

    def complete(
        self, request: CompletionRequest, prompts: Sequence[tuple[str, list[int]]], seed: int
    ) -> Iterator[list[Piece]]:
        """Yield, step by step, what is added to the samples of each prompt in turn."""
        sampling = request.sampling(seed=seed)
        bias = self.vocabulary.bias(request.logit_bias)
        n = sampling.num_samples
        for number, prompt in enumerate(prompts):
            indices = range(number * n, (number + 1) * n)
            if request.echo:
                yield self._echo(prompt, indices, request.logprobs)
            if not request.tokens:
                yield [Piece(index, finish_reason="length") for index in indices]
                continue
            at_once = samples_at_once(self.model.writer, prompt[1], sampling)
            for first in range(0, n, at_once):
                samples = range(first, min(first + at_once, n))
                for pieces in self._draw(prompt[1], sampling, samples, request, bias):
                    for piece in pieces:
                        piece.index += indices.start
                    yield pieces

    def _draw(
        self,
        prompt: list[int],
        sampling: Sampling,
        samples: range,
        request: CompletionRequest,
        bias: Tensor | None,
    ) -> Iterator[list[Piece]]:
        model, count = self.model, request.logprobs
        stops = [as_in_texts(stop) for stop in request.stops]
        streams = [TextStream(model.tokenizer, stops) for _ in samples]
        latest: list[TokenLogprob] = []

        def note(logits: Tensor, chosen: Tensor) -> None:
            logprobs = self.vocabulary.logprobs(logits)
            latest[:] = [
                self.vocabulary.of(max(id, 0), row, count or 0)
                for id, row in zip(chosen.tolist(), logprobs, strict=True)
            ]

        steps = generate_ids(
            model.writer,
            prompt,
            sampling,
            vocab_size=self.vocabulary.size,
            samples=samples,
            bias=None if bias is None else bias.to(model.device),
            on_logits=None if count is None else note,
            last_prompt=self._last_prompt,
        )
        for step, tokens in enumerate(steps, 1):
            pieces = []
            for row, (stream, token) in enumerate(zip(streams, tokens.tolist(), strict=True)):
                if stream.finish_reason:
                    continue
                known = len(stream.ids)
                stream.push(token)
                piece = Piece(samples[row], stream.new_text(), completion_tokens=1)
                if count is not None and len(stream.ids) > known:  # end-of-text is no part of the text
                    piece.tokens = [latest[row]]
                if stream.finish_reason:
                    piece.finish_reason = "stop"
                elif step == sampling.max_new_tokens:
                    piece.text += stream.new_text(final=True)
                    piece.finish_reason = "length"
                pieces.append(piece)
            yield pieces
            if all(stream.finish_reason for stream in streams):
                return

    def _echo(self, prompt: tuple[str, list[int]], indices: range, count: int | None) -> list[Piece]:
        """Return the prompt as the beginning of each sample, with what the model thinks of it if that is asked."""
        text, ids = prompt
        tokens = [] if count is None else self._scored(ids, count)
        return [Piece(index, text, list(tokens)) for index in indices]

    @torch.inference_mode()
    def _scored(self, ids: list[int], count: int) -> list[TokenLogprob]:
        """Return how likely each token of a prompt is after those before it, computed as `quill eval` does."""
        gpt, dtype = self.model.scorer
        scored = [TokenLogprob(self.vocabulary.names[ids[0]], None, None)]
        with autocast(gpt.device, dtype):
            hidden = gpt(torch.tensor([ids], device=gpt.device))[0]
            for first in range(0, len(ids) - 1, POSITIONS_AT_ONCE):
                rows = hidden[first : min(first + POSITIONS_AT_ONCE, len(ids) - 1)]
                logprobs = self.vocabulary.logprobs(gpt.logits(rows).float())
                targets = ids[first + 1 : first + 1 + len(rows)]
                scored += [self.vocabulary.of(id, row, count) for id, row in zip(targets, logprobs, strict=True)]
        return scored
