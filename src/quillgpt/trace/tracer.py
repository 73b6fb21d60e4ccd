"""Traces a text: every span of it is copied from the training text, close to it, or new."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from quillgpt.data.dataset import Dataset
from quillgpt.errors import DataError, UserError
from quillgpt.files import write_json
from quillgpt.records import read_record
from quillgpt.text.sources.addresses import is_web_address
from quillgpt.trace.calibration import Calibration, calibrate
from quillgpt.trace.index import Index, open_index
from quillgpt.trace.matching import EncodedText, Kind
from quillgpt.trace.origins import Origins
from quillgpt.trace.origins_file import open_origins
from quillgpt.trace.passages import Passage, passages
from quillgpt.trace.training_text import check_has_text

TRAINING_TEXT = "training text"
"""The source of a span whose file is not known; its line is then that of the training text."""

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Span:
    """A part of a traced text.

    Attributes:
        start: Its first character.
        end: The character after its last one.
        kind: `copied`: letter by letter, from a passage at least as long as calibrated; `close`: from an alignment of
            at least 85 %; `new`: anything else.
        source: The file or address that it came from, or `training text` if that is not known; None if it is new.
        line: The line there: of its first occurrence in the training text, or of what it is aligned with. None if it
            is new.
        occurrences: How often it occurs in the training text or, if it is close, the passage that it is aligned with.
        similarity: 1.0 if it is copied, the likeness of the alignment if it is close, None if it is new.
    """

    start: int
    end: int
    kind: Kind
    source: str | None = None
    line: int | None = None
    occurrences: int = 0
    similarity: float | None = None

    @property
    def characters(self) -> int:
        """Its length."""
        return self.end - self.start

    @property
    def place(self) -> str:
        """Its source and line in few words: of an address, only the end."""
        source = str(self.source)
        return f"{'/'.join(source.split('/')[-2:]) if is_web_address(source) else source}:{self.line}"

    def row(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class Trace:
    """A traced text.

    Attributes:
        text: The text.
        spans: Its spans, in order, without gaps.
        calibration: What held-out text has in common with the training text.
    """

    text: str
    spans: list[Span]
    calibration: Calibration

    @property
    def shares(self) -> dict[Kind, float]:
        """The share of the characters of each kind; 0 for an empty text."""
        kinds: tuple[Kind, ...] = ("copied", "close", "new")
        total = max(1, len(self.text))
        return {kind: sum(one.characters for one in self.spans if one.kind == kind) / total for kind in kinds}

    @property
    def expected(self) -> dict[Kind, float]:
        """The shares that held-out text of the same data has."""
        copied, close = self.calibration.copied, self.calibration.close
        return {"copied": copied, "close": close, "new": 1 - copied - close}

    @property
    def longest_copy(self) -> Span | None:
        """The longest copied span, or None if nothing is copied."""
        return max((one for one in self.spans if one.kind == "copied"), key=lambda one: one.characters, default=None)

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        shares, expected, longest = self.shares, self.expected, self.longest_copy
        if longest is None:
            end = f"no passage of {self.calibration.least} characters or more is copied"
        else:
            end = f"the longest copy has {longest.characters:,} characters, from {longest.place}"
        return (
            f"Of {len(self.text):,} characters, {shares['copied']:.1%} are copied (of held-out text, "
            f"{in_percent(expected['copied'])}), {shares['close']:.1%} are close ({in_percent(expected['close'])}), "
            f"and {shares['new']:.1%} are new; {end}."
        )


@dataclass(frozen=True)
class Tracer:
    """Traces texts to a training text. Several threads may use it at once.

    Attributes:
        index: The training text.
        origins: Where its parts came from.
        calibration: From which length on a match counts as copied.
        notes: Sentences about what cannot be traced.
    """

    index: Index
    origins: Origins
    calibration: Calibration
    notes: tuple[str, ...] = ()

    def trace(self, text: str) -> Trace:
        """Trace a text."""
        spans = [self._span(passage) for passage in passages(EncodedText(text), self.index, self.calibration.least)]
        return Trace(text, _with_new(spans, len(text)), self.calibration)

    def _span(self, passage: Passage) -> Span:
        place = self.origins.place(passage.position, self.index)
        return Span(
            passage.start,
            passage.end,
            passage.kind,
            source=TRAINING_TEXT if place is None else place.source,
            line=self.index.lines_before(passage.position) + 1 if place is None else place.line,
            occurrences=passage.occurrences,
            similarity=round(passage.likeness, 4),
        )


def open_tracer(datasets: Sequence[Dataset], *, finetuned_from: str | None = None) -> Tracer:
    """Open the index of the training text of a model; make it if it is missing, damaged, or of other data.

    Everything that is made is kept in the cache folder, in `trace/`, and read as memory maps.

    Args:
        datasets: The data sets that the model was trained on.
        finetuned_from: The model that it was trained on from, whose own text is not indexed; None if it was trained
            from scratch.

    Raises:
        DataError: The text of the tokens is not known, or is too long.
        UserError: The index has to be made, and pydivsufsort is not installed.
    """
    check_has_text(datasets)
    index = open_index(datasets)
    notes: list[str] = []
    origins = open_origins(datasets, index, notes)
    if finetuned_from is not None:
        notes.append(
            f"the model was trained on from {finetuned_from}; only the text that it was finetuned on is indexed, so "
            f"what it copies from the text of {finetuned_from} counts as new"
        )
    return Tracer(index, origins, _calibration(datasets, index), tuple(notes))


def _calibration(datasets: Sequence[Dataset], index: Index) -> Calibration:
    file = index.folder / CALIBRATION
    with suppress(UserError):  # not made yet, or damaged
        return read_record(file, Calibration, DataError, mend="")
    made = calibrate(datasets, index)
    write_json(file, made.model_dump())
    return made


def _with_new(spans: Sequence[Span], characters: int) -> list[Span]:
    """Return spans, and what is between them as new ones."""
    whole: list[Span] = []
    reached = 0
    for span in spans:
        if span.start > reached:
            whole.append(Span(reached, span.start, "new"))
        whole.append(span)
        reached = span.end
    return whole if reached == characters else [*whole, Span(reached, characters, "new")]


def in_percent(share: float) -> str:
    """Return a share in percent, with the digits that a small one needs."""
    return f"{share:.1%}" if share >= 0.001 or share == 0 else f"{share:.2%}"
