"""What a candidate may spend, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quillgpt.bench.quality.scoring import Price


@dataclass(frozen=True)
class Budget:
    """What a candidate may spend.

    Attributes:
        minutes: Minutes of the whole command.
        rate: Operations in a second that are assumed instead of the machine's own, and then the clock does not count;
            None: the clock counts.
    """

    minutes: float
    rate: float | None = None

    @property
    def operations(self) -> float | None:
        """Operations of all iterations, where the clock does not count."""
        return None if self.rate is None else 60 * self.minutes * self.rate


@dataclass(frozen=True)
class Run:
    """A run of a candidate.

    Attributes:
        price: What its model pays for the held-out part.
        seconds: The duration of its command.
        chosen: Its settings, as far as they are recorded.
    """

    price: Price
    seconds: float
    chosen: dict[str, Any]
