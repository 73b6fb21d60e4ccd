"""Checks and their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from quillgpt.proof.sandbox import Sandbox

Status = Literal["pass", "fail", "not_run"]


class Refuted(Exception):  # noqa: N818 - a finding, not an error
    """A promise does not hold; the message is the figure that shows it."""


class CannotRun(Exception):  # noqa: N818 - as above
    """A check cannot be done on this machine; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """One line of the sheet; `proof.json` has it under these names.

    Attributes:
        name: The promise.
        status: Whether it holds; `not_run` if it could not be checked.
        figure: The figure that shows it, as a short text.
        compared: What was compared with what.
    """

    name: str
    status: Status
    figure: str
    compared: str


@dataclass(frozen=True)
class Check:
    """The test of a promise.

    Attributes:
        run: Runs the test and returns the figure; raises `Refuted` if the promise does not hold, and `CannotRun` if
            this machine cannot run the test.
        compared: What is compared with what.
    """

    run: Callable[[Sandbox], str]
    compared: str


def outcome_of(name: str, check: Check, sandbox: Sandbox) -> Outcome:
    """Run a check; any other exception counts as a failed check, so the sheet is always written."""
    status: Status = "pass"
    try:
        figure = check.run(sandbox)
    except CannotRun as reason:
        status, figure = "not_run", str(reason)
    except Refuted as finding:
        status, figure = "fail", str(finding)
    except Exception as error:
        status, figure = "fail", f"{type(error).__name__}: {error}"
    return Outcome(name, status, " ".join(figure.split()), check.compared)
