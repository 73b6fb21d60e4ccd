"""The sheet has a line for every check, and only promises that hold pass."""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from quillgpt.errors import ConfigError, UserError
from quillgpt.ownership import RECORD
from quillgpt.proof import prove as proving
from quillgpt.proof.outcome import CannotRun, Check, Outcome, Refuted, outcome_of
from quillgpt.proof.proved_model import ProvedModel, proved_models
from quillgpt.proof.sandbox import Sandbox
from quillgpt.proof.sheet import conclude, facts, write_sheet


def check(effect: Any) -> Check:
    def measure(_: object) -> str:
        if isinstance(effect, Exception):
            raise effect
        return str(effect)

    return Check(measure, "one with the other")


@pytest.mark.parametrize(
    ("effect", "status", "figure"),
    [
        ("0 of 5 differ", "pass", "0 of 5 differ"),
        (Refuted("1 of 5 differ"), "fail", "1 of 5 differ"),
        (CannotRun("no signals"), "not_run", "no signals"),
        (ZeroDivisionError("in\ntwo lines"), "fail", "ZeroDivisionError: in two lines"),
    ],
)
def test_the_outcome_of_a_check(effect: Any, status: str, figure: str) -> None:
    outcome = outcome_of("a promise", check(effect), None)  # type: ignore[arg-type]
    assert outcome == Outcome("a promise", status, figure, "one with the other")  # type: ignore[arg-type]


GOOD = Outcome("kept", "pass", "0 of 5 differ", "a | b")
BAD = Outcome("broken", "fail", "1 of 5 differ", "c with d")
UNKNOWN = Outcome("unknown", "not_run", "no signals", "e with f")


def test_the_sheet(tmp_path: Path) -> None:
    about = facts(
        proved_models("shakespeare_char_cpu", {"dtype": "float32"}),
        command="quill prove",
        date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        seconds=61.2,
    )
    write_sheet(tmp_path, [GOOD, BAD, UNKNOWN], about)
    rows = json.loads((tmp_path / "proof.json").read_text())
    assert [set(row) for row in rows] == [{"name", "status", "figure", "compared"}] * 3
    assert [row["status"] for row in rows] == ["pass", "fail", "not_run"]
    page = (tmp_path / "proof.md").read_text()
    assert page.startswith("# Proof of 2026-01-02 03:04+00:00: 1 pass, 1 fail, 1 not run\n")
    assert "| kept | pass | 0 of 5 differ | a \\| b |" in page
    assert "| broken | FAIL |" in page
    assert "| computed in | float32 |" in page
    assert "| command | quill prove |" in page


def test_a_failure_is_an_error_that_names_it_and_the_logs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"1 pass, 1 fail, 0 not run: broken; .*proof\.md.*logs"):
        conclude([GOOD, BAD], Path("proof"))
    conclude([GOOD, UNKNOWN], Path("proof"))
    assert "1 pass, 0 fail, 1 not run; the sheet is in" in capsys.readouterr().err


def test_a_proof_goes_on_after_a_failure_and_keeps_its_log_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*words: str, status: int) -> Check:
        return Check(lambda sandbox: sandbox.quill(*words, status=status).out, "its exit status")

    checks = {"first one": says("--nonsense", status=0), "second one": says("--version", status=0)}
    monkeypatch.setattr(proving, "CHECKS", checks)
    out_dir = tmp_path / "sheet"
    models = proved_models(None, {"dtype": "float32", "device": "cpu"})
    outcomes = proving.run_checks(models, out_dir=out_dir, command="", checks=checks)
    assert [outcome.status for outcome in outcomes] == ["fail", "pass"]
    assert "status 2 instead of 0" in outcomes[0].figure
    assert "--nonsense" in outcomes[0].figure
    assert capsys.readouterr().out.startswith("FAIL    first one: ")
    assert sorted(path.name for path in out_dir.iterdir()) == [RECORD, "logs", "proof.json", "proof.md"]
    assert [path.name for path in (out_dir / "logs").iterdir()] == ["first-one"]
    assert "--nonsense" in (out_dir / "logs" / "first-one" / "01.err").read_text()


@pytest.mark.parametrize("name", ["logs/mine.txt", "logs/first-one/01.err", "proof.md", "proof.json"])
def test_files_that_quill_did_not_write_are_neither_removed_nor_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(proving, "CHECKS", {"none": Check(lambda _: "nothing", "nothing")})
    proving.run_checks([proved()], out_dir=tmp_path, command="", checks=["none"])
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=rf"holds {name}, not written by Quill or changed since"):
        proving.run_checks([proved()], out_dir=tmp_path, command="", checks=["none"])
    assert mine.read_text() == "mine"


def test_logs_of_an_earlier_proof_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(sandbox: Sandbox) -> str:
        return sandbox.quill("--version", status=1).out

    monkeypatch.setattr(proving, "CHECKS", {"one": Check(fail, ""), "two": Check(fail, "")})
    for name in ("one", "two"):
        proving.run_checks([proved()], out_dir=tmp_path, command="", checks=[name])
        assert [path.name for path in (tmp_path / "logs").iterdir()] == [name]


def proved() -> ProvedModel:
    return proved_models(None, {"dtype": "float32", "device": "cpu"})[0]


def test_a_folder_that_is_a_file_and_an_unknown_check_are_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken cannot be written to"):
        proving.run_checks([], out_dir=tmp_path / "taken", command="")
    with pytest.raises(ConfigError, match=r"did you mean SIGTERM\?"):
        proving.run_checks([], out_dir=tmp_path, command="", checks=["SIGTERMS"])


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM that a program can send itself")
def test_a_proof_that_is_asked_to_end_removes_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask_to_end(sandbox: Sandbox) -> str:
        (sandbox.folder / "half").write_text("done")
        os.kill(os.getpid(), signal.SIGTERM)
        return "went on"

    monkeypatch.setitem(proving.CHECKS, "asked to end", Check(ask_to_end, "nothing"))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as interruption:
        proving.run_checks([proved()], out_dir=tmp_path / "proof", command="", checks=["asked to end"])
    assert interruption.value.args == (signal.SIGTERM,)
    assert list((tmp_path / "proof").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
