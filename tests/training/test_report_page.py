"""What a run tells of itself: provenance.json, report.html, and the cards of its checkpoints and exports."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markupsafe import escape

from quillgpt.checkpoint import load_model
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.cli.run import run as run_command
from quillgpt.export import export_model
from quillgpt.plots.record import METRICS, read_metrics
from quillgpt.report.told import read_run
from quillgpt.run_files import PROVENANCE, REPORT
from quillgpt.training import train

from .conftest import MakeSettings
from .test_resume import train_until


@pytest.fixture
def run(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of two sessions."""
    settings = tiny(sample_interval=8)
    train_until(settings, 6, monkeypatch)
    train(settings.model_copy(update={"init_from": "resume"}))
    return Path(settings.out_dir)


def losses(card: ModelCard) -> dict[str, Any]:
    return {result.metric_name: result.metric_value for result in card.data.eval_results or []}


def test_a_run_tells_of_its_sessions_and_its_numbers(run: Path, tmp_path: Path) -> None:
    provenance = json.loads((run / PROVENANCE).read_text(encoding="utf-8"))
    assert [session["iteration"] for session in provenance["sessions"]] == [0, 6]
    assert provenance["data"][0]["manifest"]["sources"]

    page = (run / REPORT).read_text(encoding="utf-8")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert f"{summary['val_loss_full']:.4f}" in page
    assert "2 sessions, 0 rollbacks" in page
    assert provenance["data"][0]["fingerprint"] in page
    assert "iteration 8</h3>" in page
    assert str(tmp_path) not in page

    export_model(load_model(run), "hf", tmp_path / "exported")
    card = ModelCard.load(tmp_path / "exported" / "README.md")
    assert losses(card) == {name: summary[name] for name in ("best_val_loss", "val_loss_full")}
    assert card.data.library_name == "transformers"
    assert str(tmp_path) not in card.content
    best = ModelCard.load(checkpoints_folder(run) / "best" / "README.md")
    assert losses(best) == {"best_val_loss": summary["best_val_loss"]}


def test_reasons_are_kept_with_the_choices_and_shown(run: Path) -> None:
    sessions = json.loads((run / PROVENANCE).read_text(encoding="utf-8"))["sessions"]
    page = (run / REPORT).read_text(encoding="utf-8")
    assert "micro_batch_size" in sessions[0]["reasons"]
    assert "tokenizer" not in sessions[1]["reasons"]  # which was chosen when the run began
    assert all(str(escape(reason)) in page for reason in sessions[0]["reasons"].values())


def test_the_printed_command_repeats_the_run(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny(eval_iters=3, max_iters=6, eval_interval=3, report=False)
    first = Path(settings.out_dir)
    monkeypatch.chdir(first.parent)
    train(settings.model_copy(update={"data_dir": "data"}))
    command = shlex.split(read_run(first.name, first).command())
    assert run_command([*command[1:], "--report=false"]) == 0
    again = [read_metrics(folder / METRICS) for folder in (first, Path(f"{first.name}-again"))]
    losses = [[(row["iter"], row["val_loss"]) for row in rows if row["kind"] == "eval"] for rows in again]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_a_card_may_be_edited(run: Path) -> None:
    card = checkpoints_folder(run) / "best" / "README.md"
    card.write_text("mine", encoding="utf-8")
    assert load_model(run).about["dataset"] == "tiny"
    card.unlink()
    load_model(run)


def test_a_run_without_a_report(tiny: MakeSettings) -> None:
    settings = tiny(report=False, max_iters=4)
    out_dir = Path(settings.out_dir)
    out_dir.mkdir(parents=True)
    (out_dir / REPORT).write_text("mine", encoding="utf-8")
    train(settings)
    assert (out_dir / REPORT).read_text(encoding="utf-8") == "mine"


def test_a_report_that_cannot_be_written_fails_no_run(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(max_iters=4)
    page = Path(settings.out_dir) / REPORT
    train_until(settings, 2, monkeypatch)
    page.mkdir()
    assert train(settings.model_copy(update={"init_from": "resume"})) is not None
    said = " ".join(capsys.readouterr().err.split())
    assert f"{page} was not written: {page} is a folder" in said
    assert f"to try again: quill report {settings.out_dir}" in said
