"""Comparing runs notices the smallest difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quillgpt.proof.compare import different_values, relative_difference, require_equal_runs
from quillgpt.proof.outcome import Refuted

ROWS = [{"kind": "train", "iter": 1, "loss": 5.0}, {"kind": "eval", "iter": 2, "val_loss": 4.0}]


def test_times_are_no_difference(runs: Any) -> None:
    one, other = runs
    other.record([row | {"seconds": 9.9} for row in ROWS])
    figure = require_equal_runs(one.folder, other.folder)
    assert figure.startswith("0 of ")
    assert figure.endswith(" values and 0 of 2 rows differ")


def test_one_flipped_bit_is_noticed(runs: Any) -> None:
    one, other = runs
    other.flip_last_bit()  # best and last are one folder
    with pytest.raises(Refuted, match=r"^2 of .*, the first in last/model\.safetensors:"):
        require_equal_runs(one.folder, other.folder)


def test_another_set_of_tensors_is_noticed(runs: Any) -> None:
    one, other = runs
    other.drop_tensor()
    with pytest.raises(Refuted, match="different tensors"):
        require_equal_runs(one.folder, other.folder)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [ROWS[0] | {"loss": 5.0000001}, ROWS[1]],
    ],
    ids=["missing", "another loss"],
)
def test_another_record_is_noticed(runs: Any, rows: list[dict[str, object]]) -> None:
    one, other = runs
    other.record(rows)
    with pytest.raises(Refuted, match="1 of 2 rows differ"):
        require_equal_runs(one.folder, other.folder)


def test_a_run_without_a_checkpoint_equals_nothing(runs: Any, tmp_path: Any) -> None:
    with pytest.raises(Refuted, match="no checkpoint"):
        require_equal_runs(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), 1),
        (torch.tensor([float("nan")]), torch.tensor([float("nan")]), 0),
        (torch.tensor(3.0), torch.tensor(3.0), 0),
        (torch.zeros(2), torch.zeros(3), 3),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32), 2),
    ],
)
def test_values_differ_by_their_bits(one: torch.Tensor, other: torch.Tensor, count: int) -> None:
    assert different_values(one, other) == count


def test_the_relative_difference_is_that_of_all_tensors_together() -> None:
    one = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert relative_difference(one, one) == 0
    assert relative_difference(one, {"a": torch.tensor([3.0]), "b": torch.tensor([4.5])}) == pytest.approx(0.1)
    with pytest.raises(Refuted):
        relative_difference(one, {"a": torch.tensor([3.0])})
