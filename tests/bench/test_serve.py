"""A server in turn with sampling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

from exported import saved
from quillgpt.cli import main


def bench(model: Path, *flags: str) -> int:
    return main(["bench", "serve", str(model), "--threads=1", "--rounds=1", "--first_tokens=2", *flags])


def test_a_server_is_measured_in_turn_with_sampling(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "tiny")
    assert bench(tmp_path / "tiny", "--prompt_tokens=4", "--max_new_tokens=6", "--json") == 0
    result = json.loads(capfd.readouterr().out)
    assert len(result["first_token_ms_requests"]) == 2
    assert min(result["first_token_ms_requests"]) > 0
    assert result["tokens_per_second"] > 0
    assert result["sample_tokens_per_second"] > 0
    ratio = result["sample_tokens_per_second"] / result["tokens_per_second"]
    assert result["times_as_long"] == pytest.approx(ratio)


def test_more_than_the_context_is_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "tiny")
    assert bench(tmp_path / "tiny", "--max_new_tokens=5000") == 2
    assert "more than the model's context of" in capfd.readouterr().err
