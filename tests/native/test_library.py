"""The kernels in C++ are compiled once, kept, and missing for a reason that is said."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from quillgpt.native import CACHE_VARIABLE, library


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Start with an empty folder of compiled code, and forget what was loaded before and after."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    library.kernels.cache_clear()
    library.decoding_kernels.cache_clear()
    yield tmp_path
    library.kernels.cache_clear()
    library.decoding_kernels.cache_clear()


def test_kernels_are_compiled_once_and_kept(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := library.why_unavailable(torch.bfloat16):
        pytest.skip(reason)
    (kept,) = afresh.iterdir()  # and nothing unfinished beside it
    library.kernels.cache_clear()
    monkeypatch.setattr(library, "_compile", lambda *_: pytest.fail("compiled again"))
    assert library.why_unavailable(torch.bfloat16) is None
    assert list(afresh.iterdir()) == [kept]


def test_a_damaged_file_is_compiled_again(
    afresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if reason := library.why_unavailable(torch.float32):
        pytest.skip(reason)
    (kept,) = afresh.iterdir()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("elsewhere")))
    damaged = Path(os.environ[CACHE_VARIABLE], kept.name)
    damaged.write_bytes(b"no library")
    library.kernels.cache_clear()
    assert library.why_unavailable(torch.float32) is None
    assert damaged.stat().st_size > 1000


def test_a_machine_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert library.why_unavailable(torch.bfloat16) == "there is no C++ compiler"
    assert library.why_unavailable(torch.bfloat16, building=False) == "there is no C++ compiler"


def test_without_a_compiler_there_is_no_kernel_of_a_decode_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert library.decoding_kernels() is None


def test_a_compiler_that_fails_says_why_and_leaves_nothing(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = afresh / "c++"
    compiler.write_text("#!/bin/sh\necho 'no such thing as C++20' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert library.why_unavailable(torch.bfloat16) == "the compiler failed: no such thing as C++20"
    assert list(afresh.iterdir()) == [compiler]


def test_a_number_format_without_kernels_is_named() -> None:
    assert library.why_unavailable(torch.float16) == "it has no kernels for float16"
