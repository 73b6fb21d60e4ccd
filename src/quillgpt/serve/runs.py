"""The runs of a folder, to be followed while they train: what their records say so far.

Runs are found by looking downward from the folder, without following links. A client names one of those that were
found; its words never become a path. Lines of a record that are damaged or half written are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quillgpt.run_files import METRICS
from quillgpt.runs.find import find_runs, newest_first
from quillgpt.runs.record import last_rows, parse
from quillgpt.runs.small_files import number, read_settings, read_summary
from quillgpt.runs.state import seconds_left, state_of
from quillgpt.serve.answers import RefusedError, answer

MOST_RUNS: Final = 200
MOST_ROWS: Final = 5_000
"""Rows of one answer; a client asks again for what follows."""

MOST_LINES: Final = 10**12
State = Literal["training", "finished", "stopped"]
STATES: Final[dict[str, State]] = {"running": "training", "finished": "finished"}
"""Those that the page tells apart; all others are `stopped`."""

ORDER: Final[dict[State, int]] = {"training": 0, "stopped": 1, "finished": 1}


class RunCard(BaseModel):
    """A run, and how far it is."""

    name: str = Field(description="Its folder, relative to the one that the server was started in.")
    state: State
    iteration: int | None = Field(description="Optimizer steps done.")
    max_iters: int | None
    train_loss: float | None = Field(description="The latest: of an evaluation or of a batch.")
    val_loss: float | None
    learning_rate: float | None
    tokens_per_second: float | None
    seconds: float | None = Field(description="Time since the start of training.")
    seconds_left: float | None = Field(description="Reckoned from the latest rows; null where nothing trains.")


class RunList(BaseModel):
    """The answer to GET /x/runs: first what trains, then the newest."""

    data: list[RunCard]


class RunRows(BaseModel):
    """The answer to GET /x/runs/{name}: rows of its metrics.jsonl, whose numbers are all finite or null."""

    run: RunCard
    first: int = Field(description="Lines before the rows: those asked for, or 0 if the record has become shorter.")
    next: int = Field(description="What to ask for as `after` next time.")
    more: bool = Field(description="Whether there are further rows already.")
    rows: list[dict[str, float | str | None]] = Field(
        description="As docs/formats.md has them; a row of the kind sample, if any, has a text."
    )


class Runs:
    """Finds runs and reads their records.

    Args:
        folder: Where to look.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def routes(self) -> list[Route]:
        """Return what answers questions about runs."""
        return [
            Route("/x/runs", self._list, methods=["GET"]),
            Route("/x/runs/{name:path}", self._show, methods=["GET"]),
        ]

    async def _list(self, _: Request) -> Response:
        return answer(RunList(data=await run_in_threadpool(self.cards)))

    async def _show(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not (after.isascii() and after.isdecimal() and int(after[:20]) <= MOST_LINES):
            raise RefusedError(
                400, f"after is {after[:40]!r}; expected how many lines are known already", param="after"
            )
        return answer(await run_in_threadpool(self.rows, request.path_params["name"], int(after)))

    def cards(self) -> list[RunCard]:
        """Return the runs that there are."""
        found = find_runs(self._folder)
        cards = [card(name, found[name]) for name in newest_first(found)[:MOST_RUNS]]
        return sorted(cards, key=lambda card: ORDER[card.state])

    def rows(self, name: str, after: int) -> RunRows:
        """Return rows of a run, without its first `after` lines.

        Raises:
            RefusedError: There is no such run.
        """
        path = find_runs(self._folder).get(name)
        if path is None:
            raise RefusedError(404, f"there is no run {name[:100]!r}; /x/runs lists them", code="run_not_found")
        first, lines = after, list(islice(complete_lines(path / METRICS, after), MOST_ROWS + 1))
        if after and not lines and sum(1 for _ in complete_lines(path / METRICS, 0)) < after:
            first, lines = 0, list(islice(complete_lines(path / METRICS, 0), MOST_ROWS + 1))
        more, lines = len(lines) > MOST_ROWS, lines[:MOST_ROWS]
        rows = [row for line in lines if (row := parse(line)) is not None]
        return RunRows(run=card(name, path), first=first, next=first + len(lines), more=more, rows=rows)


def card(name: str, path: Path) -> RunCard:
    """Return what a run's files say about it now."""
    rows = last_rows(path / METRICS)
    latest = {str(row["kind"]): row for row in rows}  # of each kind the last
    train, evaluation = latest.get("train", {}), latest.get("eval", {})
    max_iters = read_settings(path).get("max_iters")
    length = max_iters if isinstance(max_iters, int) else None
    state = STATES.get(state_of(path, read_summary(path), rows[-1] if rows else None), "stopped")
    batch_loss, train_loss = number(train, "loss"), number(evaluation, "train_loss")
    return RunCard(
        name=name,
        state=state,
        iteration=int(rows[-1]["iter"]) if rows else None,
        max_iters=length,
        train_loss=train_loss if train.get("iter", -1) <= evaluation.get("iter", -1) else batch_loss,
        val_loss=number(evaluation, "val_loss"),
        learning_rate=number(train, "lr"),
        tokens_per_second=number(train, "tokens_per_second"),
        seconds=number(rows[-1], "seconds") if rows else None,
        seconds_left=seconds_left(rows, length) if state == "training" else None,
    )


def complete_lines(path: Path, after: int) -> Iterator[bytes]:
    """Yield the lines of a file that end, without the first ones."""
    try:
        with path.open("rb") as file:
            yield from (line for line in islice(file, after, None) if line.endswith(b"\n"))
    except OSError:  # the run was removed, or is replaced just now
        return
