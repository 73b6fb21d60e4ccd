"""Runs side by side: what each has reached, as one row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from quillgpt.plots.record import METRICS, Row
from quillgpt.runs.find import newest_first
from quillgpt.runs.record import Record, last_rows
from quillgpt.runs.screen import plain
from quillgpt.runs.small_files import number, read_origin, read_settings, read_summary, word
from quillgpt.runs.state import State, state_of
from quillgpt.tables import ResultTable

Order = Literal["newest", "name", "state", "loss", "bits", "minutes", "tokenizer", "copied"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
STATES: Final[tuple[State, ...]] = get_args(State)

FORMATS: Final = {
    "run": "s",
    "state": "s",
    "iter": ",",
    "best loss": ".4f",
    "at": ",",
    "bits/byte": ".3f",
    "minutes": ".1f",
    "tokenizer": "s",
    "copied": ".1%",
}
EVALUATION: Final = b'"eval"'
"""What is in the line of every evaluation; other lines are passed over unread."""


@dataclass(frozen=True)
class Overview:
    """What a run has reached.

    Attributes:
        run: Its name.
        state: What has become of it.
        iteration: Optimizer steps done; None before the first row, as all that follows is where it is not known.
        best_loss: The lowest validation loss of an evaluation, nats per token.
        best_iteration: Its iteration.
        bits_per_byte: The same evaluation in bits for each byte of text.
        minutes: Time since the start of training, pauses between sessions left out.
        tokenizer: The name of its tokenizer.
        copied_share: The share of what it writes that is copied from its text, 0 to 1.
        expected_copied_share: The same of held-out text.
        full_loss: The loss of its best checkpoint over the whole validation split, nats per token.
        standard_error: The standard error of that loss.
    """

    run: str
    state: State
    iteration: int | None
    best_loss: float | None
    best_iteration: int | None
    bits_per_byte: float | None
    minutes: float | None
    tokenizer: str | None
    copied_share: float | None
    expected_copied_share: float | None
    full_loss: float | None
    standard_error: float | None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values, by name."""
        return asdict(self)


def evaluations(run: Path) -> list[Row]:
    """Return the rows of a run's evaluations."""
    record = Record(run / METRICS, only=EVALUATION)
    rows: list[Row] = []
    while True:
        anew, found = record.read()
        rows = found if anew else [*rows, *found]
        if not record.is_behind:
            return [row for row in rows if row["kind"] == "eval"]


def overview(name: str, run: Path) -> Overview:
    """Return what a run has reached, by its files."""
    rows = evaluations(run)
    lasts = last_rows(run / METRICS)
    last = lasts[-1] if lasts else None
    summary, origin = read_summary(run), read_origin(run)
    best = min(
        (row for row in rows if number(row, "val_loss") is not None), key=lambda row: row["val_loss"], default={}
    )
    traced = next((row for row in reversed(rows) if number(row, "copied_share") is not None), {})
    copying = summary if number(summary, "copied_share") is not None else traced
    times = [seconds for row in lasts if (seconds := number(row, "seconds")) is not None]
    seconds = times[-1] if times else number(summary, "wall_seconds")
    return Overview(
        run=name,
        state=state_of(run, summary, last),
        iteration=None if last is None else int(last["iter"]),
        best_loss=number(best, "val_loss"),
        best_iteration=int(best["iter"]) if best else None,
        bits_per_byte=number(best, "val_bits_per_byte"),
        minutes=None if seconds is None else seconds / 60,
        tokenizer=word(origin, "tokenizer") or word(read_settings(run), "tokenizer"),
        copied_share=number(copying, "copied_share"),
        expected_copied_share=number(copying, "expected_copied_share"),
        full_loss=number(summary, "val_loss_full"),
        standard_error=number(summary, "val_standard_error"),
    )


def overviews(runs: dict[str, Path], order: Order) -> list[Overview]:
    """Return what each run has reached, in an order: from the lowest up; those that lack a value come last."""
    found = [overview(name, runs[name]) for name in newest_first(runs)]
    keys: dict[str, Callable[[Overview], Any]] = {
        "name": lambda run: run.run,
        "state": lambda run: STATES.index(run.state),
        "loss": lambda run: run.best_loss,
        "bits": lambda run: run.bits_per_byte,
        "minutes": lambda run: run.minutes,
        "tokenizer": lambda run: run.tokenizer,
        "copied": lambda run: run.copied_share,
    }
    if order == "newest":
        return found
    known = [run for run in found if keys[order](run) is not None]
    return sorted(known, key=keys[order]) + [run for run in found if keys[order](run) is None]


def table(runs: Iterable[Overview], title: str) -> ResultTable:
    """Return runs as a table."""
    return ResultTable(title, FORMATS, [_row(run) for run in runs])


def _row(run: Overview) -> dict[str, object]:
    return {
        "run": plain(run.run),
        "state": run.state,
        "iter": run.iteration,
        "best loss": run.best_loss,
        "at": run.best_iteration,
        "bits/byte": run.bits_per_byte,
        "minutes": run.minutes,
        "tokenizer": None if run.tokenizer is None else plain(run.tokenizer),
        "copied": run.copied_share,
    }
