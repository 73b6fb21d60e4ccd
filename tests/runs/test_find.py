"""Where runs are found, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quillgpt.errors import DataError
from quillgpt.runs.find import check_is_run, find_runs, named, newest_first
from runs.folders import a_run, step


def test_runs_are_found_downward_only(tmp_path: Path) -> None:
    here = tmp_path / "here"
    a_run(here / "out")
    a_run(here / "runs" / "out")
    a_run(here / "runs" / "old" / "out")
    a_run(here / ".hidden")
    outside = a_run(tmp_path / "outside")
    (here / "link").symlink_to(outside)
    linked = a_run(here / "linked")
    (linked / "metrics.jsonl").unlink()
    (linked / "metrics.jsonl").symlink_to(outside / "metrics.jsonl")
    (here / "queue").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(here / "queue" / "metrics.jsonl")
    assert sorted(find_runs(here)) == ["out", "runs/out"]
    assert find_runs(here / "missing") == {}


def test_the_run_that_grew_last_is_the_newest(tmp_path: Path) -> None:
    for age, name in enumerate(("c", "a", "b")):
        os.utime(a_run(tmp_path / name, step(1)) / "metrics.jsonl", (10**9 - age, 10**9 - age))
    assert newest_first(find_runs(tmp_path)) == ["c", "a", "b"]


def test_runs_of_one_name_are_called_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [Path("out"), Path("x/out"), Path("y"), tmp_path / "y"]
    assert named(given) == {"out": Path("out"), str(Path("x/out")): Path("x/out"), "y": Path("y")}


def test_a_run_that_begins_has_no_record_yet(tmp_path: Path) -> None:
    begun = a_run(tmp_path / "out-begun")
    (begun / "metrics.jsonl").unlink()
    assert check_is_run(begun, begun=False) == begun
    with pytest.raises(DataError, match=r"holds no metrics\.jsonl"):
        check_is_run(begun)
    a_run(tmp_path / "out-demo", step(1))
    assert check_is_run(tmp_path / "out-demo" / "metrics.jsonl") == tmp_path / "out-demo"
    with pytest.raises(DataError, match="did you mean"):
        check_is_run(tmp_path / "out-dem", begun=False)
