"""Tests of training in several processes, which must be what it is in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks import Ranks, in_ranks, metrics
from tolerances import SAME_RUN_IN_RANKS

LOSSES = (("train", "loss"), ("train", "grad_norm"), ("eval", "train_loss"), ("eval", "val_loss"))

VARIANTS: dict[str, dict[str, object]] = {
    "adamw": {},
    "small micro-batches": {"micro_batch_size": 1},
    "average": {"ema_decay": 0.9, "arch": "qwen3"},
    "replay": {"replay": 0.25, "replay_dataset": "other"},
    "kernel": {"attn_type": "GKn", "attn_path": "recompute"},
}


def out_dir_of(words: list[str]) -> Path:
    return Path(next(word.removeprefix("--out_dir=") for word in words if word.startswith("--out_dir=")))


def assert_same_losses(one: list[str], other: list[str]) -> None:
    for kind, name in LOSSES:
        expected, losses = (metrics(out_dir_of(words), kind, name) for words in (one, other))
        assert losses == pytest.approx(expected, abs=SAME_RUN_IN_RANKS), (kind, name)
        assert len(losses) > 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_train_as_one_process_does(variant: str, words) -> None:  # type: ignore[no-untyped-def]
    one, two = (words(f"{count}-{variant}", **VARIANTS[variant]) for count in (1, 2))
    in_ranks(1, *one)
    in_ranks(2, *two)
    assert_same_losses(one, two)


def test_four_ranks_train_as_one_process_does(words) -> None:  # type: ignore[no-untyped-def]
    one, four = words("1-of-4"), words("4-of-4")
    in_ranks(1, *one)
    in_ranks(4, *four)
    assert_same_losses(one, four)


def test_a_run_goes_on_in_another_number_of_processes(words) -> None:  # type: ignore[no-untyped-def]
    whole, parts = words("whole"), words("parts", max_iters=20)
    in_ranks(1, *whole)
    in_ranks(2, *parts)
    in_ranks(1, *words("parts", max_iters=40, init_from="resume"))
    in_ranks(4, *words("parts", max_iters=50, init_from="resume"))
    expected, losses = (metrics(out_dir_of(command), "train", "loss") for command in (whole, parts))
    assert losses == pytest.approx(expected, abs=SAME_RUN_IN_RANKS)


def test_a_batch_that_ranks_cannot_share_is_refused_by_rank_0_alone(words) -> None:  # type: ignore[no-untyped-def]
    ranks = Ranks(3, *words("uneven"))
    assert 0 not in ranks.wait()
    said, *others = ranks.said()
    assert "8 sequences" in said
    assert "3 processes" in said
    assert said.count("\n") == 1
    assert not any(others)
    assert not out_dir_of(words("uneven")).exists()
