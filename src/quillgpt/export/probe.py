"""Asking a model the same questions here and in another program, and comparing the answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel
from quillgpt.config.schema import Sampling
from quillgpt.errors import TokenizerError
from quillgpt.export.certificate import CheckResult
from quillgpt.generation import generate_ids
from quillgpt.model import GPT
from quillgpt.text.tokenizers.tokenizer import Tokenizer

TEXTS = (
    "It was the best of times, it was the worst of times.",
    "naïve café, 東京 🚀\n\tdef f(x):  return x\n\n   three   spaces, 1234567 and won't",
)
"""Texts in which tokenizers differ; only those that a tokenizer can represent are used."""

OWN_TOKENS = 64
"""Length of a text that the model itself generates, so that its most likely tokens are checked."""

CONTINUED_TOKENS = 24
"""Length of the greedy continuation."""

NEVER_DRAWN = -50.0
"""Natural logarithm of a probability so small that the token is never drawn."""


class ProgramMissingError(Exception):
    """The program that an export is for is not here; the message says what was looked for."""


class Runtime(Protocol):
    """Another program that has opened the exported files."""

    name: str
    end_of_text: int | None

    def close(self) -> None:
        """End what was started."""
        return

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits at each position, (T, V)."""

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the greedy continuation of at most `count` ids, without end-of-text."""

    def compare_more(self, loaded: LoadedModel, number_type: str) -> list[CheckResult]:  # noqa: ARG002
        """Compare what only this program is asked."""
        return []


@dataclass(frozen=True)
class Probe:
    """The questions and our answers.

    Attributes:
        texts: The texts to encode.
        ids: The ids of each text.
        logits: The logits at each position of each text, as far as it fits into the context, (T, V).
        start: The ids to continue, from the beginning of the first text.
        asked: Number of tokens to generate, as far as they fit into the context.
        continuation: The greedy continuation, without end-of-text.
        choices: The logits from which its tokens, and the one after them, were chosen, (tokens + 1, V).
        end_of_text: Id of the token that ends a text.
    """

    texts: list[str]
    ids: list[list[int]]
    logits: list[Tensor]
    start: list[int]
    asked: int
    continuation: list[int]
    choices: Tensor
    end_of_text: int | None

    def context(self, index: int) -> list[int]:
        """Return the ids of a text that have logits."""
        return self.ids[index][: len(self.logits[index])]


@torch.no_grad()
def make_probe(loaded: LoadedModel) -> Probe:
    """Compute our generated answers, in float32 on the CPU."""
    model, tokenizer = loaded.model, loaded.tokenizer
    vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
    first = [tokenizer.end_of_text or 0]
    generated = [int(token) for token in generate_ids(model, first, DRAWN, vocab_size=vocab_size)]
    texts, ids = [], []
    for text in (tokenizer.decode([token for token in generated if token != tokenizer.end_of_text]), *TEXTS):
        with suppress(TokenizerError):  # a character that the tokenizer does not have
            if encoded := tokenizer.encode(text).tolist():
                texts.append(text)
                ids.append(encoded)

    def logits(ids: list[int]) -> Tensor:
        return model.logits(model(torch.tensor([ids[: model.config.block_size]])))[0, :, :vocab_size].float()

    start = prompt_of(ids[0], model.config.block_size)
    asked = min(CONTINUED_TOKENS, model.config.block_size - len(start))
    drawn = [int(token) for token in generate_ids(model, start, GREEDY, vocab_size=vocab_size)][:asked]
    continuation = list(takewhile(lambda token: token != tokenizer.end_of_text, drawn))
    choices = logits(start + continuation)[len(start) - 1 :]
    return Probe(texts, ids, [*map(logits, ids)], start, asked, continuation, choices, tokenizer.end_of_text)


DRAWN = Sampling(num_samples=1, max_new_tokens=OWN_TOKENS, temperature=1.0, top_k=None)
GREEDY = Sampling(num_samples=1, max_new_tokens=CONTINUED_TOKENS, temperature=0.0)


class QuillRuntime(Runtime):
    """Exported files that Quill itself has read back, because no program that reads them could be run here.

    Args:
        name: What has read them.
        model: The model as it was read.
        tokenizer: The tokenizer as it was read.
    """

    def __init__(self, name: str, model: GPT, tokenizer: Tokenizer) -> None:
        self.name = name
        self.end_of_text = tokenizer.end_of_text
        self._model = model
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._tokenizer.encode(text).tolist())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return self._tokenizer.decode(ids)

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of every next token, (T, V)."""
        return self._model.logits(self._model(torch.tensor([list(ids)])))[0]

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the likeliest continuation."""
        tokens = min(self._tokenizer.vocab_size, self._model.config.vocab_size)
        drawn = [int(token) for token in generate_ids(self._model, ids, GREEDY, vocab_size=tokens)][:count]
        return list(takewhile(lambda token: token != self.end_of_text, drawn))


def prompt_of(ids: Sequence[int], block_size: int) -> list[int]:
    """Return the first of the ids, so that the context has room for a continuation."""
    return list(ids[: max(1, min(16, block_size - CONTINUED_TOKENS))])


def compare_answers(probe: Probe, runtime: Runtime, *, tolerance: float) -> list[CheckResult]:
    """Ask another program the same questions, and compare its answers with ours.

    Args:
        probe: The questions and our answers.
        runtime: The other program.
        tolerance: The largest difference of logits that passes, as a share of their standard deviation.
    """
    logits = [runtime.logits(probe.context(index)).float() for index in range(len(probe.texts))]
    return [
        _compare_ids(probe, runtime),
        _compare_text(probe, runtime),
        _compare_logits(probe, logits, tolerance),
        _compare_continuation(probe, runtime, tolerance),
        _compare_stop(probe, runtime, logits),
    ]


def _compare_ids(probe: Probe, runtime: Runtime) -> CheckResult:
    name = "token ids"
    for text, ids in zip(probe.texts, probe.ids, strict=True):
        if (their_ids := runtime.encode(text)) != ids:
            return CheckResult(name, "failed", f"{text[:60]!r} became {their_ids[:20]}, expected {ids[:20]}")
    return CheckResult(name, "passed", f"{sum(map(len, probe.ids))} tokens of {len(probe.texts)} texts")


def _compare_text(probe: Probe, runtime: Runtime) -> CheckResult:
    name = "text of ids"
    for text, ids in zip(probe.texts, probe.ids, strict=True):
        if (their_text := runtime.decode(ids)) != text:
            return CheckResult(name, "failed", f"{ids[:20]} became {their_text[:60]!r}, expected {text[:60]!r}")
    return CheckResult(name, "passed", f"{len(probe.texts)} texts are the same")


def _compare_logits(probe: Probe, logits: list[Tensor], tolerance: float) -> CheckResult:
    differences = [
        (theirs[:, : ours.shape[1]] - ours).abs().max() / _spread(ours)
        for theirs, ours in zip(logits, probe.logits, strict=True)
    ]
    largest = float(torch.stack(differences).max())  # NaN if one is NaN; then it is not within the tolerance
    passes = largest <= tolerance
    detail = f"{sum(map(len, probe.logits))} positions; differences are shares of the logits' standard deviation"
    return CheckResult("logits", "passed" if passes else "failed", detail, largest, tolerance)


def _spread(logits: Tensor) -> Tensor:
    """Return the standard deviation of logits; 1 for a vocabulary of one token, whose logits may all be equal."""
    return logits.std() if logits.shape[1] > 1 else logits.new_ones(())


def _compare_continuation(probe: Probe, runtime: Runtime, tolerance: float) -> CheckResult:
    name, ours = "likeliest continuation", probe.continuation
    theirs = runtime.generate(probe.start, probe.asked) if probe.asked else []
    if theirs == ours:
        return CheckResult(name, "passed", f"{len(theirs)} tokens are the same")
    ends = [probe.end_of_text, None]  # what comes after the last token
    position = next(
        i for i, pair in enumerate(zip([*theirs, *ends], [*ours, *ends], strict=False)) if pair[0] != pair[1]
    )
    their_token, our_token = ([*ids, *ends][position] for ids in (theirs, ours))
    if their_token is not None and our_token is not None and their_token < probe.choices.shape[1]:
        lead = float((probe.choices[position, our_token] - probe.choices[position, their_token]) / probe.choices.std())
        if lead <= 2 * tolerance:
            return CheckResult(
                name,
                "passed",
                f"{position} tokens are the same, then two are almost equally likely",
                lead,
                2 * tolerance,
            )
    return CheckResult(
        name, "failed", f"differs from token {position} on: {theirs[position:][:5]}, expected {ours[position:][:5]}"
    )


def _compare_stop(probe: Probe, runtime: Runtime, logits: list[Tensor]) -> CheckResult:
    name, ours, theirs = "end of text", probe.end_of_text, runtime.end_of_text
    said = "no token ends a text" if ours is None else f"token {ours} ends a text"
    if ours == theirs:
        return CheckResult(name, "passed", said)
    if ours is None and theirs is not None and theirs >= probe.logits[0].shape[1]:
        all_logits = torch.cat(logits)
        highest = float((all_logits[:, theirs] - all_logits[:, :theirs].logsumexp(1)).max())
        instead = f"{said}; in the other program, token {theirs} would, with a probability of at most e^{highest:.0f}"
        return CheckResult(name, "passed" if highest <= NEVER_DRAWN else "failed", instead)
    return CheckResult(name, "failed", f"{said}, but {theirs} in the other program")
