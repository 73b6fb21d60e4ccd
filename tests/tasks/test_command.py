"""`quill eval --tasks`: what it prints, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from quillgpt.cli import main

MACHINE = ("--device=cpu", "--dtype=float32", "--threads=1")


@pytest.fixture
def quill(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run `quill eval` in an empty folder, and return status, output and messages; the folder must stay empty."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(("eval", *map(str, words), *MACHINE))
        assert [*tmp_path.iterdir()] == []
        return status, *capsys.readouterr()

    return run


def test_two_models_on_two_tasks_as_a_table_and_as_json(
    folder: Path, model_folder: Path, make_model: Callable[..., Path], quill: Callable[..., tuple[int, str, str]]
) -> None:
    models = f"{model_folder},{make_model('second', seed=1)}"
    asked = (models, "--tasks=choosing,reading", f"--include_path={folder}")
    status, out, err = quill(*asked, "--markdown")
    assert status == 0, err
    lines = out.splitlines()
    assert "| model | task | metric | score | s.e. | chance | documents | shots |" in lines
    assert sum("| choosing | acc |" in line for line in lines) == 3  # two scores and a difference
    assert "| ln word_perplexity |" in out
    status, out, _ = quill(*asked, "--json", "--limit=3", "--num_fewshot=1")
    rows = [json.loads(line) for line in out.splitlines()]
    scores, differences = rows[:8], rows[8:]
    assert [row["task"] for row in scores] == ["choosing"] * 2 + ["reading"] * 2 + ["choosing"] * 2 + ["reading"] * 2
    assert {row["documents"] for row in rows} == {3}
    assert {row["num_fewshot"] for row in scores} == {1}
    assert scores[0]["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 4) / 3)
    for row in differences:
        one, other = (
            next(row for row in half if (row["task"], row["metric"]) == (of["task"], of["metric"]))
            for of in [row]
            for half in (scores[4:], scores[:4])
        )
        if row["measure"] == row["metric"]:
            assert row["difference"] == pytest.approx(one["score"] - other["score"])
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert len(differences) == 4


def test_what_is_wrong_is_one_line(
    folder: Path, model_folder: Path, quill: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (model_folder, "--tasks=choosing")
    for words, status, said in [
        ((*asked, "--include_path=absent"), 2, "include_path = absent is no folder"),
        ((model_folder, "--tasks=,"), 2, "tasks names no task"),
        ((model_folder, "--limit=5"), 2, "--limit is for tasks; name them with --tasks"),
        ((model_folder, "--confirm_run_unsafe_code"), 2, "--confirm_run_unsafe_code is for tasks"),
        ((*asked, f"--include_path={folder}", "--limit=0"), 2, "must be a number above 0"),
        (("absent", "--tasks=choosing", f"--include_path={folder}"), 1, "absent does not exist"),
    ]:
        given, out, err = quill(*words)
        assert (given, out, err.count("\n")) == (status, "", 1), err
        assert said in err
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    status, _, err = quill(*asked, f"--include_path={folder}")
    assert (status, err) == (
        1,
        "quill: --tasks needs the package lm_eval, which is not installed: pip install 'quillgpt[eval]'\n",
    )


def test_results_of_other_tasks_are_printed_when_one_fails(
    folder: Path, make_model: Callable[..., Path], quill: Callable[..., tuple[int, str, str]]
) -> None:
    by_characters = make_model("char", tokenizer="char")
    status, out, err = quill(by_characters, "--tasks=reading,last_word", f"--include_path={folder}")
    assert status == 1
    assert "last_word" in out
    assert "reading" not in out
    assert err.splitlines()[-1].startswith(
        f"quill: reading could not be scored with {by_characters}: task reading, document 2: the character 'ï'"
    )
