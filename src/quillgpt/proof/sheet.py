"""The sheet: promises and findings, with the date and the machine."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import torch

from quillgpt import __version__, console
from quillgpt.device import device_description
from quillgpt.errors import UserError
from quillgpt.files import write_json, write_text
from quillgpt.proof.outcome import Outcome
from quillgpt.proof.proved_model import ProvedModel

SHEET = ("proof.md", "proof.json")
STYLES = {"pass": "green", "fail": "red", "not_run": "dim"}
WORDS = {"pass": "pass", "fail": "FAIL", "not_run": "not run"}


def print_outcome(outcome: Outcome) -> None:
    """Print one line of the sheet on standard output."""
    line = f"{WORDS[outcome.status]:8}{outcome.name}: {outcome.figure}"
    console.stdout.print(line, style=STYLES[outcome.status], markup=False, emoji=False)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the number of checks by status: `11 pass, 0 fail, 1 not run`."""
    counts = Counter(outcome.status for outcome in outcomes)
    return f"{counts['pass']} pass, {counts['fail']} fail, {counts['not_run']} not run"


def facts(models: Sequence[ProvedModel], *, command: str, date: datetime, seconds: float) -> dict[str, str]:
    """Return the date, the versions, the machine and the models of a proof, in words."""
    settings = models[0].settings
    device = torch.device(settings.device)
    return {
        "date": date.isoformat(sep=" ", timespec="minutes"),
        "command": command,
        "seconds": f"{seconds:.0f}",
        "quill": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": f"{device} ({device_description(device)})",
        "computed in": settings.dtype + (", deterministic" if settings.deterministic else ""),
        "models": "; ".join(
            f"{proved.name}, {proved.settings.n_layer} layers of width {proved.settings.n_embd}, "
            f"context {proved.settings.block_size}"
            for proved in models
        ),
    }


def write_sheet(folder: Path, outcomes: Sequence[Outcome], about: dict[str, str]) -> None:
    """Write `proof.md`, a table for people, and `proof.json`, a list of objects, into a folder."""
    lines = [f"# Proof of {about['date']}: {summary(outcomes)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in about.items()]
    lines += ["", "| promise | status | found | compared |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(outcome.name)} | {WORDS[outcome.status]} | {_cell(outcome.figure)} | {_cell(outcome.compared)} |"
        for outcome in outcomes
    ]
    page, data = (folder / name for name in SHEET)
    write_text(page, "\n".join(lines) + "\n")
    write_json(data, [asdict(outcome) for outcome in outcomes])


def conclude(outcomes: Sequence[Outcome], out_dir: Path) -> None:
    """Print the summary of a proof and the paths of its sheet.

    Raises:
        UserError: A check failed.
    """
    sheet = f"{out_dir / 'proof.md'} and {out_dir / 'proof.json'}"
    failed = [outcome.name for outcome in outcomes if outcome.status == "fail"]
    if failed:
        raise UserError(
            f"{summary(outcomes)}: {', '.join(failed)}; the sheet is in {sheet}, the output of the failed checks in "
            f"{out_dir / 'logs'}"
        )
    console.outcome(f"{summary(outcomes)}; the sheet is in {sheet}")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
