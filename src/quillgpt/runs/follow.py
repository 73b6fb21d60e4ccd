"""A run that is followed: what its files say so far, in memory that does not grow with its length."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from quillgpt.plots.record import FEWEST_EVALUATIONS, LARGEST_NUMBER, METRICS, Points, Row
from quillgpt.runs.record import Record
from quillgpt.runs.small_files import number, read_settings, read_summary
from quillgpt.runs.state import PACE_ROWS, State, quiet_seconds, seconds_left, state_of

MOST_POINTS: Final = 2_000
"""Points of a curve; where there are more, neighbours become one."""

MOST_WARNINGS: Final = 20
STATE_SECONDS: Final = 5.0
"""How often the files beside the record are looked at, and the process that trains."""

QUIET_SECONDS: Final = 60.0
QUIET_ROWS: Final = 10
"""A run that trains is called quiet after a minute, and ten times as long as its latest rows were apart."""


class Curve:
    """The points of a curve, thinned."""

    def __init__(self) -> None:
        self.points: Points = []

    def add(self, x: float, y: float | None) -> None:
        """Add a point at the end; one without a value, or with one that no run has, is left out."""
        if y is None or not -LARGEST_NUMBER < y < LARGEST_NUMBER:
            return
        self.points.append((x, y))
        if len(self.points) >= MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairs]


class Followed:
    """A run that is followed.

    Args:
        name: What it is called.
        folder: Where it is.
        clock: Returns seconds.

    Attributes:
        settings: The content of its config.toml.
        summary: That of its summary.json.
        state: What has become of it.
        latest: The latest row of each kind.
        best: The row of the evaluation with the lowest validation loss.
        since_best: Evaluations since then.
        warnings: The iterations and texts of the latest warnings, the newest last.
        quiet: For how many minutes it has written nothing; 0 where that is usual.
    """

    def __init__(self, name: str, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.folder = name, folder
        self.settings: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.state: State = "interrupted"
        self.quiet = 0
        self._record = Record(folder / METRICS)
        self._clock = clock
        self._looked: float | None = None
        self._begin()

    def _begin(self) -> None:
        self.latest: dict[str, Row] = {}
        self.last: Row | None = None
        self.best: Row | None = None
        self.since_best = 0
        self.warnings: deque[tuple[int, str]] = deque(maxlen=MOST_WARNINGS)
        self._recent: deque[Row] = deque(maxlen=PACE_ROWS)
        self._curves = {name: Curve() for name in ("loss", "train_loss", "val_loss")}

    @property
    def damaged(self) -> int:
        """The number of lines of the record that are no rows."""
        return self._record.damaged

    @property
    def is_behind(self) -> bool:
        """Whether the record has more already than was read so far."""
        return self._record.is_behind

    @property
    def length(self) -> int | None:
        """The iteration at which the run ends; None where that is not known."""
        length = self.settings.get("max_iters")
        return length if isinstance(length, int) and 0 < length < LARGEST_NUMBER else None

    @property
    def iteration(self) -> int | None:
        """Optimizer steps done; None before the first row."""
        return None if self.last is None else int(self.last["iter"])

    @property
    def seconds(self) -> float | None:
        """The time since the start of training, as far as rows tell it."""
        return next((found for row in reversed(self._recent) if (found := number(row, "seconds")) is not None), None)

    @property
    def seconds_left(self) -> float | None:
        """How long the run still takes at its latest pace; None where nothing trains or nothing tells."""
        return seconds_left(list(self._recent), self.length) if self.state == "running" else None

    @property
    def losses(self) -> dict[str, Points]:
        """The training and the validation loss, as `plots.record.loss_curves` has them."""
        train = self._curves["train_loss"].points
        if len(train) < FEWEST_EVALUATIONS:
            train = self._curves["loss"].points or train
        return {"train": train, "val": self._curves["val_loss"].points}

    def look(self) -> bool:
        """Read what is new; return whether anything is."""
        anew, rows = self._record.read()
        if anew:
            self._begin()
        for row in rows:
            self._take(row)
        changed = anew or bool(rows)
        now = self._clock()
        if self._looked is None or anew or now - self._looked >= STATE_SECONDS:
            self._looked = now
            changed |= self._look_around()
        return changed

    def look_at_all(self) -> None:
        """Read all that there is."""
        self.look()
        while self.is_behind:
            self.look()
        self._look_around()

    def _take(self, row: Row) -> None:
        kind = row["kind"]
        self.latest[kind] = self.last = row
        self._recent.append(row)
        for name in ("loss",) if kind == "train" else ("train_loss", "val_loss") if kind == "eval" else ():
            self._curves[name].add(row["iter"], number(row, name))
        if kind in ("warning", "failed") and isinstance(row.get("text"), str):
            self.warnings.append((int(row["iter"]), row["text"]))
        if kind == "eval" and (loss := number(row, "val_loss")) is not None:
            self.since_best += 1
            if self.best is None or loss < self.best["val_loss"]:
                self.best, self.since_best = row, 0

    def _look_around(self) -> bool:
        before = self.settings, self.summary, self.state, self.quiet
        self.settings = read_settings(self.folder) or self.settings  # it may be replaced just now
        self.summary = read_summary(self.folder)
        self.state = state_of(self.folder, self.summary, self.last)
        self.quiet = self._quiet_minutes() if self.state == "running" else 0
        return before != (self.settings, self.summary, self.state, self.quiet)

    def _quiet_minutes(self) -> int:
        times = [seconds for row in self._recent if (seconds := number(row, "seconds")) is not None]
        usual = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
        quiet = quiet_seconds(self.folder)
        return int(quiet / 60) if quiet >= max(QUIET_SECONDS, QUIET_ROWS * usual) else 0
