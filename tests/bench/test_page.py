"""A page in a browser, from a double click to its first character."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exported import saved
from quillgpt.cli import main
from quillgpt.export import export_model
from quillgpt.export.html.chromium import find_chromium


@pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")
def test_a_page_is_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quillgpt.export.html.runtime.find_chromium", lambda: None)
    export_model(saved(tmp_path / "model", tokenizer="char"), "html", tmp_path / "page.html")
    assert main(["bench", "page", str(tmp_path / "page.html"), "--rounds=1", "--max_new_tokens=5", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert 0 < result["ready_seconds"] < result["first_character_seconds"]
    assert result["cpu_seconds"] > 0
    assert result["tokens_per_second"] > 0
    assert len(result["tokens_per_second_rounds"]) == 1


def test_other_files_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.html").write_text("<!doctype html>\n")
    assert main(["bench", "page", str(tmp_path / "other.html")]) == 2
    assert "is no page of `quill export" in capfd.readouterr().err
    assert main(["bench", "page", str(tmp_path)]) == 2
    assert "cannot be read" in capfd.readouterr().err
