"""Measurements of this machine: the time that they may take, and results that are kept with the load of the machine.

They are made once per machine and kept under `QUILL_HOME`, so that two runs of one command choose alike. What was
measured while other programs were in the way is measured again when the machine is quieter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psutil
import torch

from quillgpt import __version__
from quillgpt.errors import UserError
from quillgpt.files import quill_home, write_json
from quillgpt.records import read_record

SHARE_OF_MINUTES, LARGER_SHARE = 0.1, 0.25
"""Share of a run's minutes that its measurements may take, and of a run so short that this is less than FEW_SECONDS."""

FEW_SECONDS = 20.0
"""What measurements may take at least, where the larger share allows it, and of a run without minutes."""

CROWD_TOLERANCE = 0.25
"""Cores; the system itself always does something."""

MOST_CORES = 1e6
"""No machine has more: a larger number is damage in the file."""

SAMPLE_SECONDS = 0.1
"""The system counts busy cores in steps of ten milliseconds."""

Measurement = TypeVar("Measurement", float, dict[str, float])


class OutOfTimeError(Exception):
    """A measurement would take longer than it may."""


class Allowance:
    """The time that all measurements at the start of a run may take; a dwindling share of it is for each.

    Args:
        minutes: The run's; None: it has none.
        clock: Returns seconds.

    Attributes:
        left: Seconds that are left; 0 or less if there are none.
    """

    def __init__(self, minutes: float | None = None, *, clock: Callable[[], float] = time.perf_counter) -> None:
        seconds = 60 * minutes if minutes is not None else FEW_SECONDS / LARGER_SHARE
        self.left = max(SHARE_OF_MINUTES * seconds, min(LARGER_SHARE * seconds, FEW_SECONDS))
        self._clock = clock

    @contextmanager
    def spending(self, share: float) -> Iterator[float]:
        """Take the time of the block from what is left, and give the seconds that it may take: a share of that."""
        started = self._clock()
        try:
            yield max(0.0, share * self.left)
        finally:
            self.left -= self._clock() - started


@dataclass(frozen=True)
class Kept(Generic[Measurement]):
    """A result that is kept.

    Attributes:
        result: A number above 0, or such numbers by name.
        crowd: Cores that other programs used meanwhile.
    """

    result: Measurement
    crowd: float

    @property
    def was_crowded(self) -> bool:
        """Whether other programs left fewer cores than the threads of this process need."""
        return self.crowd > (psutil.cpu_count() or 1) - torch.get_num_threads() + CROWD_TOLERANCE


def remember(key: str, measure: Callable[[], Measurement], *, of: Collection[str] = ()) -> Measurement:
    """Return the earlier result for `key` with these versions of Quill and torch, or measure now and keep the result.

    Args:
        key: What is measured, with everything that the result depends on except the versions.
        measure: Measures it; returns a number above 0, or such numbers by name.
        of: The names of the numbers.

    Raises:
        OutOfTimeError: `measure` has raised it, and there is no earlier result.
    """
    return measured(key, measure, of).result


def measured(
    key: str,
    measure: Callable[[], Measurement],
    of: Collection[str] = (),
    better: Callable[[Measurement, Measurement], Measurement] | None = None,
) -> Kept[Measurement]:
    """Return what `remember` does, with the load at which it was measured.

    Args:
        key: As for `remember`.
        measure: As for `remember`.
        of: As for `remember`.
        better: The better of two results. Then a result is measured again as long as other programs were in the way,
            and the best one is kept; else it is only if there are fewer of them now, and the newer result is kept.
    """
    path = quill_home() / "measurements.json"
    full_key = f"{key} | quill {__version__} torch {torch.__version__}"
    try:
        known = read_record(path, dict[str, Any], UserError, mend="")
    except UserError:  # never measured, or a damaged cache
        known = {}
    earlier: Kept[Measurement] | None = _kept(known.get(full_key), of)
    if earlier is not None and not (earlier.was_crowded and (better is not None or _is_quieter(earlier.crowd))):
        return earlier
    try:
        result = with_crowd(measure)
    except OutOfTimeError:
        if earlier is None:
            raise
        return earlier
    if earlier is not None and better is not None and better(earlier.result, result.result) == earlier.result:
        result = Kept(earlier.result, min(earlier.crowd, result.crowd))
    known[full_key] = {"result": result.result, "crowd": result.crowd}
    with suppress(OSError):  # if the cache cannot be written, the next run measures again
        write_json(path, known)
    return result


def with_crowd(measure: Callable[[], Measurement]) -> Kept[Measurement]:
    """Measure, and count the cores that other programs used meanwhile.

    In less time than `SAMPLE_SECONDS`, a single step of the system's count would look like many cores.
    """
    start, busy, own = time.perf_counter(), _busy_seconds(), time.process_time()
    result = measure()
    others = _busy_seconds() - busy - (time.process_time() - own)
    return Kept(result, max(0.0, round(others / max(SAMPLE_SECONDS, time.perf_counter() - start), 2)))


def _is_quieter(crowd: float) -> bool:
    """Whether other programs use clearly fewer cores now."""

    def wait() -> float:
        time.sleep(SAMPLE_SECONDS)
        return 1.0

    return with_crowd(wait).crowd < crowd - CROWD_TOLERANCE


def _busy_seconds() -> float:
    """Return the seconds that all cores have computed so far."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


def _kept(entry: object, of: Collection[str]) -> Kept[Any] | None:
    """Return a result from the file; None if it is none."""
    if not isinstance(entry, dict) or not _is_measurement(entry.get("result"), of):
        return None
    crowd = entry.get("crowd")
    return Kept(entry["result"], float(crowd) if isinstance(crowd, int | float) and 0 <= crowd < MOST_CORES else 0.0)


def _is_measurement(value: object, of: Collection[str]) -> bool:
    numbers = [value] if not of else [value.get(name) for name in of] if isinstance(value, dict) else [None]
    return all(isinstance(number, int | float) and 0 < number < 1e30 for number in numbers)
