"""What was checked of an export: the content of certificate.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CERTIFICATE = "certificate.json"


@dataclass(frozen=True)
class Check:
    """One comparison of the exported model with ours.

    Attributes:
        name: What was compared.
        result: `passed`, `failed`, or `not run`.
        detail: What was found, or why it could not be run.
        largest_difference: Between two numbers that should be equal, where numbers were compared.
        tolerance: The largest that passes.
    """

    name: str
    result: Literal["passed", "failed", "not run"]
    detail: str
    largest_difference: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Certificate:
    """What an export is, and which checks it passed.

    Attributes:
        model: What was exported, as a person named it.
        target: The format.
        number_type: What matrices are written in.
        runtime: The program that ran the exported files, with its version; None where none could.
        quill_version: Of the program that wrote them.
        date: Day of the export, as 2026-11-21.
        checks: In the order in which they were made.
    """

    model: str
    target: str
    number_type: str
    runtime: str | None
    quill_version: str
    date: str
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that did not pass."""
        return [check for check in self.checks if check.result == "failed"]
