"""`quill runs` and `quill compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runs.folders import a_run, evaluation, step


@pytest.fixture
def folders(tmp_path: Path) -> None:
    for seed, name in enumerate(("out-a", "out-a2", "deep/out-b")):
        lines = [evaluation(i, 3 + seed / 100 - i / 100) for i in range(0, 60, 10)]
        settings = f"seed = {seed}\nn_layer = {2 if name == 'deep/out-b' else 1}\n"
        summary = {"iterations": 50, "val_loss_full": 2.5 + seed / 100, "val_standard_error": 0.02}
        a_run(tmp_path / name, *lines, settings=settings, summary=summary)


@pytest.mark.usefixtures("folders")
def test_a_list_of_runs(quill: Any) -> None:
    assert quill("runs", "--sort=loss") == 0, quill.err
    title, _, *lines = quill.out.splitlines()
    assert title == "runs"
    assert [line.split()[0] for line in lines] == ["out-a", "out-a2", "deep/out-b"]
    assert quill("runs", "deep", "--json") == 0
    [row] = map(json.loads, quill.out.splitlines())
    assert (row["run"], row["state"], row["best_loss"], row["minutes"]) == ("out-b", "finished", 2.52, 100 / 60)
    assert quill("runs", "out-a") == 0
    assert quill.out.splitlines()[2].startswith("out-a ")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["runs", "nowhere"], 1, "nowhere is not a folder; give the one in which the folders of runs are"),
        (["runs", "deep/out-b/empty"], 1, "there is no run below "),
        (["runs", "--sort=size"], 2, "size"),
        (["compare", "out-a"], 2, "compare needs two runs or more: quill compare out-a out-b"),
        (["compare", "out-a", "out-a/metrics.jsonl"], 2, "compare needs two runs or more"),
        (["compare", "out-a", "out-c"], 1, "out-c does not exist; expected the folder of a run"),
    ],
)
@pytest.mark.usefixtures("folders")
def test_misuse(quill: Any, words: list[str], status: int, message: str) -> None:
    Path("deep/out-b/empty").mkdir()
    assert quill(*words) == status
    assert quill.err.startswith("quill: ")
    assert message in quill.err
    assert quill.err.count("\n") == 1


@pytest.mark.usefixtures("folders")
def test_a_comparison(quill: Any) -> None:
    assert quill("compare", "out-a", "deep/out-b") == 0, quill.err
    assert "\nsettings that differ\nsetting  out-a  out-b\nn_layer  1      2\nseed     0      2\n" in quill.out
    assert "· out-a   • out-b" in quill.out
    assert "\nout-b is 0.0200 higher than out-a: 2.5200 and 2.5000 nats per token, best checkpoint" in quill.out
    assert "no more than seeds explain" in quill.out
    assert "seeds: standard deviation 0.0071, measured on out-a, out-a2" in quill.out
    assert "text: standard error 0.0200 (out-a), 0.0200 (out-b)" in quill.out
    assert quill("compare", "out-a", "deep/out-b", "--json") == 0
    about, difference = map(json.loads, quill.out.splitlines())
    assert about["settings"]["n_layer"] == {"out-a": 1, "out-b": 2}
    assert difference["verdict"] == "no difference can be told"
    assert quill("compare", "out-a", "out-a2") == 0
    assert "all of them differ in their seed only" in quill.out


@pytest.mark.usefixtures("folders")
def test_what_cannot_be_compared_is_said(quill: Any) -> None:
    a_run(Path("out-c"), step(1), settings="")
    assert quill("compare", "out-a", "out-c") == 0
    assert "warning: out-c has no evaluation yet, so that nothing can be said" in quill.err
    assert "warning: out-c has no config.toml that can be read, so that its settings are not compared" in quill.err
    a_run(Path("out-d"), evaluation(1, 2.0), settings='dataset = "other"')
    assert quill("compare", "out-a", "out-d") == 0
    assert "were evaluated on different texts" in quill.err
    assert "higher than" not in quill.out
