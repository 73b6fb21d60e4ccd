"""How much of what a model writes is copied from the text that it was trained on: looked at during the run.

A look lets the model write some text, and traces it (`quillgpt.trace`). All looks of a session together take a small
share of its time: `pace.py` says when there is room for one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from quillgpt import console
from quillgpt.config.schema import SPECIAL_ORIGINS, Sampling
from quillgpt.generation import generate_ids
from quillgpt.model import GPT
from quillgpt.trace import Trace, Tracer, in_percent, open_tracer, seconds_to_index, text_of
from quillgpt.training.pace import TRACED_SHARE, Pace
from quillgpt.training.run import Run
from quillgpt.training.samples import writing

CHARACTERS = 2000
"""Characters that a look takes."""

TEXTS = 8
"""Texts that are written together; one would take as many steps as it has tokens."""

TRIAL_TOKENS = 8
"""Tokens of each text that are written before training to predict how long a look takes."""

INDEX_SHARE = 0.1
"""Share of a run's minutes that making the index may take."""

RECITING, RECITING_TIMES = 0.1, 2
"""A model recites if more than this share is copied, besides so many times what held-out text has."""


@dataclass(frozen=True)
class Copying:
    """How much of what a model has written is copied.

    Attributes:
        copied: The share of its characters that is copied from the training text, 0 to 1.
        close: The share that is close to it.
        expected: The share of held-out text that counts as copied.
        longest: Characters of the longest copy.
        characters: The characters that it has written.
    """

    copied: float
    close: float
    expected: float
    longest: int
    characters: int

    @classmethod
    def of(cls, trace: Trace) -> Copying:
        """Return what a traced text says."""
        longest = 0 if trace.longest_copy is None else trace.longest_copy.characters
        shares = trace.shares
        return cls(shares["copied"], shares["close"], trace.expected["copied"], longest, len(trace.text))

    @property
    def row(self) -> dict[str, float]:
        """What the row of an evaluation has of it."""
        return {
            "copied_share": self.copied,
            "close_share": self.close,
            "expected_copied_share": self.expected,
            "longest_copy": self.longest,
            "traced_characters": self.characters,
        }

    @property
    def is_recitation(self) -> bool:
        """Whether it is far more than chance."""
        return self.copied > RECITING + RECITING_TIMES * self.expected

    def sentence(self, writer: str = "it") -> str:
        """Return it in plain words, beside what held-out text has."""
        return (
            f"{in_percent(self.copied)} of what {writer} writes is copied from its text, where text that it has not "
            f"seen has {in_percent(self.expected)}"
        )


class Memorization:
    """Looks at what the models of a run write.

    Args:
        run: The run.
        tracer: Traces to the text that it learns from.
        clock: Returns seconds.
        warn: Warns the user.

    Attributes:
        predicted_seconds: What a look takes, by a trial.
    """

    def __init__(
        self,
        run: Run,
        tracer: Tracer,
        *,
        clock: Callable[[], float] = time.perf_counter,
        warn: Callable[[str], None] = console.warn,
    ) -> None:
        self._run, self._tracer, self._clock, self._warn = run, tracer, clock, warn
        self._seen: dict[int, Copying] = {}
        self._left_out_said = self._recitation_said = False
        tokens, tokenizer = run.mixture.datasets[0].val[: 4 * CHARACTERS], run.mixture.tokenizer
        held_out = text_of(tokens, tokenizer)
        self._tokens_of_a_text = math.ceil(CHARACTERS / TEXTS * len(tokens) / max(1, len(held_out)))
        self.predicted_seconds = self._try(held_out[:CHARACTERS])

    def look(self, pace: Pace) -> Copying | None:
        """Look at what the evaluated model writes, and say it; None if there is no time, or nothing is learned yet."""
        state = self._run.state
        is_last = state.iteration >= self._run.settings.max_iters
        part = pace.part_of_trace(ending=is_last) if state.iteration else 0.0
        self._seen.pop(state.iteration, None)
        if not part:
            if state.iteration and not self._left_out_said:
                self._left_out_said = True
                console.say(
                    f"copies are not looked for at every evaluation: a look takes about "
                    f"{self.predicted_seconds:.2g} s, and all may take {TRACED_SHARE:.0%} of the time"
                )
            return None
        found = self._seen[state.iteration] = self._look_at(self._run.evaluated_model, pace, part)
        console.say(
            f"copies at iter {state.iteration}: {in_percent(found.copied)} of {found.characters:,} characters "
            f"(of held-out text {in_percent(found.expected)}), close {in_percent(found.close)}"
            + (f", the longest has {found.longest} characters" if found.longest else "")
        )
        if found.is_recitation and not self._recitation_said:
            self._recitation_said = True
            settings = self._run.settings
            iterations = state.iteration - settings.began_at(state.iteration)
            passes = iterations * settings.tokens_per_iteration / self._run.mixture.train_tokens
            self._warn(
                f"the model recites: after {passes:.3g} passes over its text, {found.sentence()}. Fewer passes, more "
                "text or more --dropout help"
            )
        return found

    def of_best(self, model: GPT, pace: Pace) -> Copying:
        """Return what the best model of a run that has ended writes; it is looked at again only if it was left out."""
        best = self._run.state.best_iteration
        known = None if best is None else self._seen.get(best)
        return known or self._look_at(model, pace, pace.part_of_trace(ending=True))

    def _look_at(self, model: GPT, pace: Pace, part: float) -> Copying:
        before = self._clock()
        written = draw(self._run, model, math.ceil(part * self._tokens_of_a_text))
        found = Copying.of(self._tracer.trace(written[: round(part * CHARACTERS)]))
        pace.count_trace(self._clock() - before, part)
        return found

    def _try(self, held_out: str) -> float:
        """Return the seconds of a look, by a few tokens and by tracing a held-out text."""
        model = self._run.evaluated_model
        draw(self._run, model, TRIAL_TOKENS)  # which is slower the first time
        self._tracer.trace(held_out)
        before = self._clock()
        draw(self._run, model, TRIAL_TOKENS)
        written = self._clock()
        self._tracer.trace(held_out)
        traced = self._clock() - written
        return (written - before) * self._tokens_of_a_text / TRIAL_TOKENS + traced


def draw(run: Run, model: GPT, tokens: int) -> str:
    """Return what a model of a run writes: texts of so many tokens each, with a NUL character between them.

    A text that ends is followed by the next one, as in the held-out text to which it is compared.
    """
    assert run.prompt is not None
    tokenizer = run.mixture.tokenizer
    sampling = Sampling(num_samples=TEXTS, max_new_tokens=tokens, seed=run.settings.seed)
    vocab_size = min(tokenizer.vocab_size, model.config.vocab_size)
    with writing(model):
        steps = list(generate_ids(model, run.prompt[1], sampling, vocab_size=vocab_size))
    return "\0".join(text_of(ids, tokenizer) for ids in torch.stack(steps, 1).numpy().astype(np.uint32))


def open_memorization(run: Run, warn: Callable[[str], None] = console.warn) -> Memorization | None:
    """Make the index of a run's text, or open it, and predict how long a look takes; say how long that took.

    Args:
        run: The run.
        warn: Warns the user while it trains.

    Returns:
        None where making the index would take too much of the run's minutes, which is said.
    """
    before, minutes = time.perf_counter(), run.settings.minutes
    predicted = seconds_to_index(run.texts)
    if minutes is not None and predicted > INDEX_SHARE * 60 * minutes:
        console.warn(
            f"trace_samples is left out: indexing the text takes about {console.clock_time(predicted)}, more than "
            f"{INDEX_SHARE:.0%} of {minutes:g} min. Give more --minutes; or train without it, and make the index once "
            "with quill trace"
        )
        return None
    origin = run.settings.init_from
    tracer = open_tracer(run.texts, finetuned_from=None if origin in SPECIAL_ORIGINS else origin)
    for note in tracer.notes:
        console.warn(note)
    memorization = Memorization(run, tracer, warn=warn)
    console.say(
        f"copies of {tracer.calibration.least} characters or more are looked for; preparing that took "
        f"{time.perf_counter() - before:.1f} s"
    )
    return memorization
