"""The record of a run: metrics.jsonl, which the loggers share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from quillgpt.console import warn
from quillgpt.files import atomic_path, open_to_append
from quillgpt.plots.record import read_rows
from quillgpt.training.record.loggers import Logger, named

MOST_LINES_NAMED = 5


class MetricsLog:
    """Appends rows to a file, one JSON object a line.

    Args:
        path: The file; None keeps no record.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._unwritten = b""
        self._warned = False
        self._loggers: list[Logger] = []

    @contextmanager
    def shared_with(self, loggers: Iterable[Logger]) -> Iterator[None]:
        """Send every row to the loggers too while the block runs; close them when it ends, in whatever way."""
        self._loggers = list(loggers)
        failed = True
        try:
            yield
            failed = False
        finally:
            for logger in list(self._loggers):
                self._try(logger, partial(logger.close, failed=failed))
            self._loggers = []

    def write(self, kind: str, **numbers: float) -> None:
        """Add a row. It is written when this returns, or waits until the disk takes it."""
        self.keep(kind, **numbers)
        for logger in list(self._loggers):
            self._try(logger, partial(logger.write, named(numbers)))

    def keep(self, kind: str, **values: float | str) -> None:
        """Add a row that the loggers, which take numbers, do not get."""
        if self._path is not None:
            self._unwritten += (json.dumps({"kind": kind, **values}) + "\n").encode()
            self._append(self._path)

    def _append(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_to_append(path) as file:
                while self._unwritten:
                    self._unwritten = self._unwritten[file.write(self._unwritten) :]
        except OSError as error:
            if not self._warned:
                warn(f"{path} takes no rows now ({error.strerror or error}); they are written when it does again")
            self._warned = True

    def _try(self, logger: Logger, act: Callable[[], None]) -> None:
        """Let a logger act. One that fails is left out from then on."""
        try:
            act()
        except Exception as error:
            warn(f"{type(logger).__name__} takes no more numbers ({error}); metrics.jsonl has them all")
            self._loggers.remove(logger)

    def rewind(self, iteration: int, *, evaluated: bool) -> None:
        """Drop rows after an iteration, and a last row that a kill cut short.

        The sample of that iteration goes too: the run writes the same one again. So does the error that ended it.

        Args:
            iteration: From where the run goes on.
            evaluated: Whether that iteration's evaluation is done; else its row is dropped too, to be written again.
        """
        if self._path is None or not self._path.is_file():
            return
        rows, damaged = read_rows(self._path)
        again = {"sample"} if evaluated else {"sample", "eval"}
        kept = [
            json.dumps(row) + "\n"
            for row in rows
            if row["kind"] != "failed"
            and (row["iter"] < iteration or (row["iter"] == iteration and row["kind"] not in again))
        ]
        if damaged:
            lines = ", ".join(map(str, damaged[:MOST_LINES_NAMED])) + (" and more" * (len(damaged) > MOST_LINES_NAMED))
            warn(f"{self._path} is damaged in line {lines}: what stood there is left out from now on")
        if self._path.is_symlink():
            warn(f"{self._path} is a link: the run goes on in a file of its own, and {self._path.readlink()} stays")
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
