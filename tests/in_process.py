"""A `Worker` of the benchmarks without a process of its own: starting one takes many seconds."""

from __future__ import annotations

from typing import Any


class Here:
    """What a `Worker` does, in this process."""

    def __init__(self, make: Any, *arguments: Any) -> None:
        self.held = make(*arguments)

    def ask(self, question: Any, *arguments: Any) -> Any:
        return question(self.held, *arguments)

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        del self.held
