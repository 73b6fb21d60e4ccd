"""What a model is asked here and in another program, and how the answers are compared."""

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

TEXTS = (
    "It was the best of times, it was the worst of times.",
    "naïve café, 東京 🚀\n\tdef f(x):  return x\n\n   three   spaces, 1234567 and won't",
)
"""Texts with what tokenizers differ in, as far as a tokenizer can represent them."""

OWN_TOKENS = 64
"""Length of a text by the model itself: it has the tokens that it likes best."""

CONTINUED_TOKENS = 24
"""Tokens that are generated, always the likeliest."""

NEVER_DRAWN = -50.0
"""Natural logarithm of a probability that no one will see come true."""


class Runtime(Protocol):
    """Another program that has opened exported files, and knows nothing but these."""

    name: str
    end_of_text: int | None

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""

    def logits(self, ids: Sequence[int]) -> Tensor:
        """Return the scores of every next token, (T, V)."""

    def generate(self, ids: Sequence[int], count: int) -> list[int]:
        """Return the likeliest continuation of at most `count` ids, which ends before end-of-text."""


@dataclass(frozen=True)
class Probe:
    """Questions and our answers.

    Attributes:
        texts: Texts to encode.
        ids: Their ids.
        logits: Scores of every next token for the ids of each text, as many as fit into the context, (T, V).
        start: What is continued: the first ids of the first text.
        asked: The tokens of continuation that are asked for, as many as fit into the context.
        continuation: The likeliest continuation, which ends before end-of-text.
        choices: The scores from which each of its tokens was chosen, and the one after it, (tokens + 1, V).
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
        """Return the ids that the scores of a text are for."""
        return self.ids[index][: len(self.logits[index])]


@torch.no_grad()
def make_probe(loaded: LoadedModel) -> Probe:
    """Ask a model in float32, on the CPU."""
    model, tokenizer = loaded.model, loaded.tokenizer
    tokens = min(tokenizer.vocab_size, model.config.vocab_size)
    first = [tokenizer.end_of_text or 0]
    own = [int(each) for each in generate_ids(model, first, DRAWN, vocab_size=tokens)]
    texts, ids = [], []
    for text in (tokenizer.decode([each for each in own if each != tokenizer.end_of_text]), *TEXTS):
        with suppress(TokenizerError):  # a character that the tokenizer does not have
            if encoded := tokenizer.encode(text).tolist():
                texts.append(text)
                ids.append(encoded)

    def scores(ids: list[int]) -> Tensor:
        return model.logits(model(torch.tensor([ids[: model.config.block_size]])))[0, :, :tokens].float()

    start = prompt_of(ids[0], model.config.block_size)
    asked = min(CONTINUED_TOKENS, model.config.block_size - len(start))
    drawn = [int(each) for each in generate_ids(model, start, GREEDY, vocab_size=tokens)][:asked]
    continuation = list(takewhile(lambda token: token != tokenizer.end_of_text, drawn))
    choices = scores(start + continuation)[len(start) - 1 :]
    return Probe(texts, ids, [*map(scores, ids)], start, asked, continuation, choices, tokenizer.end_of_text)


DRAWN = Sampling(num_samples=1, max_new_tokens=OWN_TOKENS, temperature=1.0, top_k=None)
GREEDY = Sampling(num_samples=1, max_new_tokens=CONTINUED_TOKENS, temperature=0.0)


def prompt_of(ids: Sequence[int], block_size: int) -> list[int]:
    """Return the beginning of some ids that leaves room in the context for a continuation."""
    return list(ids[: max(1, min(16, block_size - CONTINUED_TOKENS))])


def compare(probe: Probe, runtime: Runtime, *, tolerance: float) -> list[CheckResult]:
    """Ask another program the same, and compare.

    Args:
        probe: Questions and our answers.
        runtime: The other program.
        tolerance: Largest difference of a score that passes, as a share of the scores' standard deviation.
    """
    scores = [runtime.logits(probe.context(index)).float() for index in range(len(probe.texts))]
    return [
        _compare_ids(probe, runtime),
        _compare_text(probe, runtime),
        _compare_logits(probe, scores, tolerance),
        _compare_continuation(probe, runtime, tolerance),
        _compare_stop(probe, runtime, scores),
    ]


def _compare_ids(probe: Probe, runtime: Runtime) -> CheckResult:
    name = "token ids"
    for text, ids in zip(probe.texts, probe.ids, strict=True):
        if (found := runtime.encode(text)) != ids:
            return CheckResult(name, "failed", f"{text[:60]!r} became {found[:20]}, expected {ids[:20]}")
    return CheckResult(name, "passed", f"{sum(map(len, probe.ids))} tokens of {len(probe.texts)} texts")


def _compare_text(probe: Probe, runtime: Runtime) -> CheckResult:
    name = "text of ids"
    for text, ids in zip(probe.texts, probe.ids, strict=True):
        if (found := runtime.decode(ids)) != text:
            return CheckResult(name, "failed", f"{ids[:20]} became {found[:60]!r}, expected {text[:60]!r}")
    return CheckResult(name, "passed", f"{len(probe.texts)} texts came back")


def _compare_logits(probe: Probe, scores: list[Tensor], tolerance: float) -> CheckResult:
    differences = [
        (found[:, : expected.shape[1]] - expected).abs().max() / _spread(expected)
        for found, expected in zip(scores, probe.logits, strict=True)
    ]
    largest = float(torch.stack(differences).max())  # NaN where one is, which is no less than anything
    passes = largest <= tolerance
    detail = f"{sum(map(len, probe.logits))} positions; differences are shares of the scores' standard deviation"
    return CheckResult("logits", "passed" if passes else "failed", detail, largest, tolerance)


def _spread(scores: Tensor) -> Tensor:
    """Return the standard deviation of scores, or, of a vocabulary of one token, whose scores may be all alike, 1."""
    return scores.std() if scores.shape[1] > 1 else scores.new_ones(())


def _compare_continuation(probe: Probe, runtime: Runtime, tolerance: float) -> CheckResult:
    name, expected = "likeliest continuation", probe.continuation
    found = runtime.generate(probe.start, probe.asked) if probe.asked else []
    if found == expected:
        return CheckResult(name, "passed", f"{len(found)} tokens are the same")
    ends = [probe.end_of_text, None]  # what stands behind the last token
    place = next(
        i for i, pair in enumerate(zip([*found, *ends], [*expected, *ends], strict=False)) if pair[0] != pair[1]
    )
    theirs, ours = ([*ids, *ends][place] for ids in (found, expected))
    if theirs is not None and ours is not None and theirs < probe.choices.shape[1]:
        lead = float((probe.choices[place, ours] - probe.choices[place, theirs]) / probe.choices.std())
        if lead <= 2 * tolerance:
            return CheckResult(
                name, "passed", f"{place} tokens are the same, then two score nearly alike", lead, 2 * tolerance
            )
    return CheckResult(
        name, "failed", f"differs from token {place} on: {found[place:][:5]}, expected {expected[place:][:5]}"
    )


def _compare_stop(probe: Probe, runtime: Runtime, scores: list[Tensor]) -> CheckResult:
    name, ours, theirs = "end of text", probe.end_of_text, runtime.end_of_text
    said = "no token ends a text" if ours is None else f"token {ours} ends a text"
    if ours == theirs:
        return CheckResult(name, "passed", said)
    if ours is None and theirs is not None and theirs >= probe.logits[0].shape[1]:
        every = torch.cat(scores)
        nearest = float((every[:, theirs] - every[:, :theirs].logsumexp(1)).max())
        instead = f"{said}; there, token {theirs} would, with a probability of at most e^{nearest:.0f}"
        return CheckResult(name, "passed" if nearest <= NEVER_DRAWN else "failed", instead)
    return CheckResult(name, "failed", f"{said}, but there it is {theirs}")
