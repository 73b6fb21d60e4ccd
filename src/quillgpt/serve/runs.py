"""The runs of a folder, to be followed while they train: what their records say so far.

Runs are found by looking downward from the folder, without following links. A client names one of those that were
found; its words never become a path. Lines of a record that are damaged or half written are passed over.
"""

from __future__ import annotations

import json
import math
import os
import socket
import tomllib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quillgpt.config.runs import CONFIG
from quillgpt.plots.record import METRICS, Row
from quillgpt.process import is_running
from quillgpt.serve.answers import RefusedError, answer
from quillgpt.training.folder.occupation import HOLDER

SUMMARY: Final = "summary.json"
DEPTH: Final = 2
"""Runs are the folders in the folder, and those one level below."""

MOST_ENTRIES: Final = 1_000
"""Entries of a folder that are looked at, so that a home folder with everything in it holds up nobody."""

MOST_RUNS: Final = 200
TAIL_BYTES: Final = 64 << 10
"""Bytes at the end of a record in which its latest rows are looked for."""

MOST_ROWS: Final = 5_000
"""Rows of one answer; a client asks again for what follows."""

MOST_LINES: Final = 10**12
LARGEST_FILE: Final = 1 << 20
LONGEST_LINE: Final = 64 << 10
PACE_ROWS: Final = 20
"""Rows whose pace the time left is reckoned from, evaluations included."""

State = Literal["training", "finished", "stopped"]
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
        newest = sorted(find_runs(self._folder).items(), key=lambda item: -_age(item[1] / METRICS))
        cards = [card(name, path) for name, path in newest[:MOST_RUNS]]
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


def find_runs(folder: Path) -> dict[str, Path]:
    """Return the runs below a folder by their relative paths: folders with a record."""
    found: dict[str, Path] = {}
    level = [folder]
    for _ in range(DEPTH):
        level = [below for above in level for below in _folders(above)]
        found |= {path.relative_to(folder).as_posix(): path for path in level if _is_file(path / METRICS)}
    return found


def card(name: str, path: Path) -> RunCard:
    """Return what a run's files say about it now."""
    rows = list(_last_rows(path / METRICS))
    latest = {str(row["kind"]): row for row in rows}  # of each kind the last
    train, evaluation = latest.get("train", {}), latest.get("eval", {})
    iteration = int(rows[-1]["iter"]) if rows else None
    training = _is_held(path / HOLDER)
    settings, summary = _toml(path / CONFIG), _json(path / SUMMARY)
    max_iters = settings.get("max_iters")
    length = max_iters if isinstance(max_iters, int) else None
    done = _number(summary, "iterations")
    state: State = "training" if training else "finished" if done is not None and done == iteration else "stopped"
    batch_loss, train_loss = _number(train, "loss"), _number(evaluation, "train_loss")
    return RunCard(
        name=name,
        state=state,
        iteration=iteration,
        max_iters=length,
        train_loss=train_loss if train.get("iter", -1) <= evaluation.get("iter", -1) else batch_loss,
        val_loss=_number(evaluation, "val_loss"),
        learning_rate=_number(train, "lr"),
        tokens_per_second=_number(train, "tokens_per_second"),
        seconds=_number(rows[-1], "seconds") if rows else None,
        seconds_left=seconds_left(rows, length) if training else None,
    )


def seconds_left(rows: list[Row], length: int | None) -> float | None:
    """Return how long the iterations that are left take if they are as fast as the latest, evaluations included."""
    numbers = ((row["iter"], _number(row, "seconds")) for row in rows)
    timed = [(float(done), seconds) for done, seconds in numbers if seconds is not None][-PACE_ROWS:]
    if length is None or len(timed) < 2 or timed[-1][0] <= timed[0][0]:
        return None
    pace = (timed[-1][1] - timed[0][1]) / (timed[-1][0] - timed[0][0])
    return max(0.0, (length - timed[-1][0]) * pace)


def complete_lines(path: Path, after: int) -> Iterator[bytes]:
    """Yield the lines of a file that end, without the first ones."""
    try:
        with path.open("rb") as file:
            yield from (line for line in islice(file, after, None) if line.endswith(b"\n"))
    except OSError:  # the run was removed, or is replaced just now
        return


def parse(line: bytes) -> Row | None:
    """Return a row with what a browser can read of it: finite numbers, and texts; None: the line is damaged."""
    if len(line) > LONGEST_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        return None
    clean = {name: value if isinstance(value, str) or _is_finite(value) else None for name, value in row.items()}
    return clean if _number(clean, "iter") is not None else None


def _is_finite(value: object) -> TypeGuard[int | float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _number(row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if _is_finite(value) and not isinstance(value, bool) else None


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                folder / entry.name
                for entry in islice(entries, MOST_ENTRIES)
                if entry.name.isprintable() and not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink()
    except OSError:
        return False


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _last_rows(path: Path) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            content = file.read(TAIL_BYTES)
    except OSError:
        return
    for line in content.split(b"\n")[:-1]:
        row = parse(line)
        if row is not None:
            yield row


def _is_held(holder: Path) -> bool:
    """Whether the process that a note of `training/folder/occupation.py` names still trains.

    One on another machine is taken at its word: it removes the note when it ends. The lock itself is left alone, since
    a look at it could keep a run from starting.
    """
    try:
        process, host = _text(holder).split()
        number = int(process)
    except (OSError, ValueError):
        return False
    return host != socket.gethostname() or is_running(number)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    """Return the text of a small file; a link, a large file and what is none are as good as empty."""
    if not _is_file(path) or path.stat().st_size > LARGEST_FILE:
        return ""
    return path.read_text(encoding="utf-8")
