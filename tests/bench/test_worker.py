"""A worker keeps an object in its process, answers questions, and reports errors."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from quillgpt.bench.worker import Worker
from quillgpt.errors import UserError


def add(held: list[int], number: int) -> tuple[int, int]:
    print("noise")
    held.append(number)
    return os.getpid(), sum(held)


def refuse(held: list[int]) -> None:
    raise UserError(f"{held} will not do")


def divide(held: list[int]) -> float:
    return held[0] / 0


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_keeps_its_object_in_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    with Worker(list, [1]) as worker:
        assert worker.ask(add, 2) == (worker.ask(add, 3)[0], 3)
        pid, total = worker.ask(add, 4)
    assert pid != os.getpid()
    assert total == 10
    assert capfd.readouterr().out == ""


def test_errors_of_a_worker_are_raised_in_its_parent() -> None:
    with Worker(list, [1]) as worker, pytest.raises(UserError, match=r"\[1\] will not do"):
        worker.ask(refuse)
    with Worker(list, [1]) as worker, pytest.raises(RuntimeError, match="division by zero"):
        worker.ask(divide)
    with pytest.raises(RuntimeError, match="not iterable"):
        Worker(list, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_a_worker_that_is_killed_is_an_error_and_no_hang() -> None:
    with Worker(list) as worker:
        with pytest.raises(UserError, match="has ended with status -9"):
            worker.ask(die)
        with pytest.raises(UserError, match="has ended with status -9"):
            worker.ask(add, 1)
