"""Peak memory is that of the candidate alone; a candidate that dies has none."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from quillgpt.bench.memory import peak_memory
from quillgpt.process import peak_resident_bytes

PAGE, MEGABYTE = 4096, 1_000_000


def hold(megabytes: int) -> None:
    held = bytearray(megabytes * MEGABYTE)
    held[::PAGE] = b"1" * len(held[::PAGE])


def die() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    print("noise")
    raise ValueError("nothing works")


@pytest.mark.skipif(peak_resident_bytes() is None, reason="this system does not tell a process its peak memory")
def test_what_the_candidate_holds_counts_and_what_its_parent_holds_does_not() -> None:
    ours = bytearray(400 * MEGABYTE)
    ours[::PAGE] = b"1" * len(ours[::PAGE])
    little, much = peak_memory(hold, 1).bytes, peak_memory(hold, 200).bytes
    assert little is not None
    assert much is not None
    assert little < 300 * MEGABYTE
    assert 180 * MEGABYTE < much - little < 220 * MEGABYTE


@pytest.mark.parametrize(
    "work", [pytest.param(die, marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals")), fail]
)
def test_a_candidate_that_fails_alone_has_no_number_and_a_warning(
    work: object, capfd: pytest.CaptureFixture[str]
) -> None:
    assert callable(work)
    assert peak_memory(work).bytes is None
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "peak memory could not be measured" in captured.err
