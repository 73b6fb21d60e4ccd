"""Runs and models that must be the same, bit for bit, but for what a clock says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.checkpoint.manifest import CARD
from quillgpt.checkpoint.names import BEST, LAST, checkpoints_folder
from quillgpt.proof.compare import different_values, require_equal_runs

CLOCKS = ("seconds", "start_seconds", "train_seconds", "saving_seconds")


def assert_equal_runs(one: Path, other: Path) -> None:
    """Compare the tensors of the last and the best checkpoint, their cards, the state of the run, and its record."""
    require_equal_runs(one, other)
    assert state_of(one) == state_of(other)
    assert cards_of(one) == cards_of(other)
    for run in (one, other):
        assert not list(checkpoints_folder(run).glob(".*")), "something unfinished was left behind"


def assert_equal_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Compare tensors by their names."""
    assert one.keys() == other.keys()
    assert {name: count for name in one if (count := different_values(one[name], other[name]))} == {}


def state_of(run: Path) -> dict[str, Any]:
    """Return what the last checkpoint says of its run, without times and settings, which say how it went on."""
    state = json.loads((checkpoints_folder(run) / "last/training/state.json").read_text(encoding="utf-8"))
    return {key: value for key, value in state.items() if key not in (*CLOCKS, "settings")}


def cards_of(run: Path) -> list[str]:
    """Return the cards of the last and the best checkpoint."""
    return [(checkpoints_folder(run) / name / CARD).read_text(encoding="utf-8") for name in (LAST, BEST)]
