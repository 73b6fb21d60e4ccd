"""A model of Quill as the language model that lm-eval asks: log-likelihoods and generated texts.

lm-eval's own class `hf` opens a model in transformers, which has none of the research kernels. This one computes with
the model as it is here. Where both can, they give the same answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from quillgpt.api import EVALUATION_TOKENS, Model
from quillgpt.config import resolve_flat
from quillgpt.config.schema import Sampling
from quillgpt.console import progress, warn
from quillgpt.device import autocast
from quillgpt.errors import CheckpointError, ConfigError, DataError, TokenizerError, UserError, join_names
from quillgpt.generation import generate_ids

Pair = tuple[list[int], list[int]]
"""The ids of a context and of its continuation."""

LOGITS_AT_ONCE: Final = 1024
"""Positions whose logits are computed together; each has one for every token of the vocabulary."""

NEW_TOKENS: Final = 256
"""The most tokens that are generated for a document if its task does not say; as in lm-eval."""

TOKEN_LIMITS: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names that tasks give the most tokens to generate; the first that is set counts."""

TAIL: Final = 8
"""Ids that are decoded, besides four for each character of a stop text, to look for it at the end of a text."""


class QuillLM(TemplateLM):  # type: ignore[misc]
    """Answers the requests of lm-eval's tasks with a model of Quill.

    Args:
        model: The model.
        batch_size: Texts computed at once; None takes as many as hold EVALUATION_TOKENS.
        block_size: Tokens that the model may see at once; None: as many as it can.

    Raises:
        ConfigError: The block is longer than the model's.
    """

    def __init__(self, model: Model, *, batch_size: int | None = None, block_size: int | None = None) -> None:
        super().__init__()
        most = model.config.block_size
        if block_size is not None and block_size > most:
            raise ConfigError(f"block_size = {block_size}, and the model sees {most:,} tokens at once; give no more")
        self._model = model
        self._block_size = block_size or most
        self._batch_size = batch_size
        end = model.tokenizer.end_of_text
        self._start = end if end is not None else model.prompt(None)[1][-1]

    @property
    def eot_token_id(self) -> int:
        """The id before a text without context: end-of-text, or what the model's samples start with."""
        return self._start

    @property
    def max_length(self) -> int:
        """The most tokens that the model sees at once."""
        return self._block_size

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:  # noqa: ARG002
        """Return the ids of a text.

        Raises:
            TokenizerError: The vocabulary of the tokenizer or of the model lacks a part of it.
        """
        ids = self._model.tokenizer.encode_prompt(string)
        if unknown := [id for id in ids if id >= self._model.config.vocab_size]:
            token = self._model.tokenizer.decode(unknown[:1])
            raise TokenizerError(f"the model does not know the token {token!r} of its tokenizer")
        return ids

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Return for each context and continuation the log-likelihood of the continuation, and whether it is greedy."""
        pairs = []
        for request in requests:
            with _naming(request):
                pairs.append(self._encode(*request.args[:2]))
        return self._score([self._parts(*pair) for pair in pairs])

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Return the log-likelihood of each text, read in blocks of the model's context."""
        texts = []
        for request in requests:
            with _naming(request):
                texts.append(self._blocks(self._start, self.tok_encode(request.args[0])))
        return [loglikelihood for loglikelihood, _ in self._score(texts)]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Return the continuation of each context, up to the first stop text, end-of-text or the most tokens."""
        alike = defaultdict(list)
        too_long = 0
        for number, request in enumerate(requests):
            with _naming(request):
                sampling, stops = generation_settings(request.args[1])
                ids = self.tok_encode(request.args[0]) or [self._start]
            room = self.max_length - sampling.max_new_tokens
            if room <= 0:  # the text will be longer than the context, whatever is left out
                room = max(1, self.max_length // 2)
            too_long += len(ids) > room
            ids = ids[-room:]
            alike[sampling, stops, len(ids)].append((number, ids))
        self._warn_of_truncation(too_long, len(requests))
        texts = [""] * len(requests)
        with progress("generating", len(requests)) as advance:
            for (sampling, stops, length), prompts in alike.items():
                at_once = self._at_once(min(self.max_length, length + sampling.max_new_tokens))
                for first in range(0, len(prompts), at_once):
                    numbers, contexts = zip(*prompts[first : first + at_once], strict=True)
                    for number, text in zip(numbers, self._generate(contexts, numbers, sampling, stops), strict=True):
                        texts[number] = text
                    advance(len(numbers))
        return texts

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Any]:
        return self._score([self._parts(*pair) for _, *pair in requests])

    def _encode(self, context: str, continuation: str) -> Pair:
        before, after = self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation))
        if not before and after[:1] == [self._start]:
            return after[:1], after[1:]
        return before or [self._start], after

    def _parts(self, context: list[int], continuation: list[int]) -> list[Pair]:
        """Return what to score: the pair, nothing if the continuation is empty, or blocks of it if it is too long."""
        if len(continuation) > self.max_length:
            return self._blocks(context[-1], continuation)
        return [(context, continuation)] if continuation else []

    def _blocks(self, before: int, ids: list[int]) -> list[Pair]:
        blocks = get_rolling_token_windows(
            token_list=ids, prefix_token=before, max_seq_len=self.max_length, context_len=1
        )
        return [make_disjoint_window(block) for block in blocks]

    def _at_once(self, length: int) -> int:
        return self._batch_size or max(1, EVALUATION_TOKENS // length)

    def _warn_of_truncation(self, too_long: int, texts: int) -> None:
        if too_long:
            warn(
                f"{too_long:,} of {texts:,} texts are longer than the model sees at once ({self.max_length:,} tokens); "
                "their beginnings are left out"
            )

    @torch.inference_mode()
    def _score(self, texts: Sequence[Iterable[Pair]]) -> list[tuple[float, bool]]:
        """Return for each text, given in parts, its log-likelihood, and whether every token is the likeliest one.

        Raises:
            CheckpointError: A log-likelihood is NaN; no choice among such means anything.
        """
        gpt, dtype = self._model.scorer
        asked: dict[tuple[int, ...], list[tuple[int, list[int]]]] = defaultdict(list)
        too_long = 0
        for number, parts in enumerate(texts):
            for context, continuation in parts:
                ids = context + continuation
                too_long += len(ids) > self.max_length + 1
                asked[tuple(ids[-self.max_length - 1 : -1])].append((number, continuation))
        self._warn_of_truncation(too_long, len(texts))
        loglikelihoods, greedy = np.zeros(len(texts)), np.ones(len(texts), dtype=bool)
        longest_first = sorted(asked, key=len, reverse=True)
        with progress("scoring texts", len(longest_first)) as advance:
            while longest_first:
                at_once = self._at_once(len(longest_first[0]))
                batch, longest_first = longest_first[:at_once], longest_first[at_once:]
                inputs = torch.zeros(len(batch), len(batch[0]), dtype=torch.int64)
                numbers: list[int] = []
                rows: list[int] = []
                positions: list[int] = []
                targets: list[int] = []
                for row, read in enumerate(batch):
                    inputs[row, : len(read)] = torch.tensor(read)
                    for number, continuation in asked[read]:
                        numbers += [number] * len(continuation)
                        rows += [row] * len(continuation)
                        positions += range(len(read) - len(continuation), len(read))
                        targets += continuation
                with autocast(gpt.device, dtype):
                    hidden = gpt(inputs.to(gpt.device))[rows, positions]  # (N, C)
                    for first in range(0, len(targets), LOGITS_AT_ONCE):
                        piece = slice(first, first + LOGITS_AT_ONCE)
                        wanted = torch.tensor(targets[piece], device=gpt.device)[:, None]
                        logits = gpt.logits(hidden[piece]).float()  # (n, V)
                        likely = logits.log_softmax(-1).gather(-1, wanted).squeeze(-1)
                        np.add.at(loglikelihoods, numbers[piece], likely.cpu().double().numpy())
                        is_best = logits.argmax(-1, keepdim=True) == wanted
                        np.logical_and.at(greedy, numbers[piece], is_best.squeeze(-1).cpu().numpy())
                advance(len(batch))
        if unknown := int(np.isnan(loglikelihoods).sum()):
            raise CheckpointError(
                f"the log-likelihoods of {unknown:,} of {len(texts):,} texts are NaN: a weight is NaN, or the model "
                "overflows. If its attention kernel is a polynomial, quill lab ranges shows the range of its arguments"
            )
        return list(zip(loglikelihoods.tolist(), greedy.tolist(), strict=True))

    def _generate(
        self, contexts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling, stops: Sequence[str]
    ) -> list[str]:
        """Return the continuations of contexts of one length, by the random numbers of the requests' numbers."""
        model, tokenizer = self._model, self._model.tokenizer
        vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
        tail = TAIL + 4 * max(map(len, stops), default=0)
        generated: list[list[int]] = [[] for _ in contexts]
        unfinished = set(range(len(contexts)))
        for tokens in generate_ids(model.writer, contexts, sampling, vocab_size=vocab_size, samples=numbers):
            for row in tuple(unfinished):
                ids = generated[row]
                token = int(tokens[row])
                if token == tokenizer.end_of_text:
                    unfinished.discard(row)
                    continue
                ids.append(token)
                if any(stop in tokenizer.decode(ids[-tail:]) for stop in stops):
                    unfinished.discard(row)
            if not unfinished:
                break
        texts = [tokenizer.decode(ids) for ids in generated]
        for stop in stops:
            texts = [text.split(stop, 1)[0] for text in texts]
        return texts


def generation_settings(options: Mapping[str, Any]) -> tuple[Sampling, tuple[str, ...]]:
    """Return how to generate, and the stop texts, from a task's `generation_kwargs`.

    Raises:
        DataError: A value is impossible.
    """
    left = dict(options)
    until = left.pop("until", None) or []
    stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
    limits = [limit for name in TOKEN_LIMITS if (limit := left.pop(name, None)) is not None]
    temperature = left.pop("temperature", None)
    sampled = left.pop("do_sample", None)
    if sampled is None:
        sampled = bool(temperature)
    chosen = {
        "max_new_tokens": limits[0] if limits else NEW_TOKENS,
        "temperature": float(1.0 if temperature is None else temperature) if sampled else 0.0,
        "top_k": left.pop("top_k", None),
        "top_p": left.pop("top_p", None),
        "min_p": left.pop("min_p", None),
        "repetition_penalty": left.pop("repetition_penalty", 1.0),
    }
    if left.pop("num_beams", 1) != 1:
        raise DataError("generation_kwargs has num_beams above 1; Quill searches no beams, so leave it out")
    if left:
        raise DataError(
            f"generation_kwargs has {join_names(sorted(left))}, which Quill's sampling does not know; leave it out"
        )
    try:
        return resolve_flat(Sampling, chosen, environ={}, dotenv=None), stops
    except UserError as error:
        raise DataError(f"generation_kwargs: {error}") from None


@contextmanager
def _naming(request: Instance) -> Iterator[None]:
    """Name the document of a request in errors about it."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"task {request.task_name}, document {request.doc_id}: {error}") from None
