"""Tests of training in several processes, which must be what it is in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quillgpt.plots.record import METRICS, read_metrics
from ranks import Ranks, in_ranks, metrics, out_dir_of
from tolerances import SAME_RUN_IN_RANKS

DIVIDING_RANK = str(Path(__file__).with_name("divided_loss_rank.py"))
LOSSES = (("train", "loss"), ("train", "grad_norm"), ("eval", "train_loss"), ("eval", "val_loss"))

VARIANTS: dict[str, dict[str, object]] = {
    "adamw": {},
    "small micro-batches": {"micro_batch_size": 1, "dropout": 0.2},
    "average": {"ema_decay": 0.9, "arch": "qwen3"},
    "replay": {"replay": 0.25, "replay_dataset": "other"},
    "kernel": {"attn_type": "GKn", "attn_path": "recompute"},
}


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


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_divide_the_loss_as_one_process_does(strategy: str, words) -> None:  # type: ignore[no-untyped-def]
    one, two = (words(f"{count}-{strategy}-divided", max_iters=8, eval_interval=4) for count in (1, 2))
    in_ranks(1, *one)
    in_ranks(2, DIVIDING_RANK, *two, f"--strategy={strategy}", "--micro_batch_size=2")
    assert_same_losses(one, two)


def test_of_two_ranks_the_first_one_writes(words) -> None:  # type: ignore[no-untyped-def]
    writing = words("2-writing", max_iters=10, eval_interval=5, sample_interval=4, trace_samples=True)
    in_ranks(2, *writing)
    rows = read_metrics(out_dir_of(writing) / METRICS)
    assert [row["iter"] for row in rows if row["kind"] == "sample"] == [4, 8, 10]
    assert "copied_share" in rows[-2]


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


def test_adapters_train_as_in_one_process(words) -> None:  # type: ignore[no-untyped-def]
    base = words("base", max_iters=10)
    in_ranks(1, *base)
    adapters = {"init_from": out_dir_of(base), "lora_rank": 2, "lora_dropout": 0.0, "max_iters": 20, "patience": 0}
    one, two = words("1-lora", **adapters), words("2-lora", **adapters)
    in_ranks(1, *one)
    in_ranks(2, *two)
    assert_same_losses(one, two)


def test_a_teacher_teaches_ranks_as_one_process(words) -> None:  # type: ignore[no-untyped-def]
    teacher = words("teacher", max_iters=10)
    in_ranks(1, *teacher)
    taught = {"teachers": out_dir_of(teacher), "max_iters": 20}
    one = words("1-taught", **taught)
    in_ranks(1, *one)
    for strategy in ("ddp", "fsdp"):
        two = words(f"2-taught-{strategy}", strategy=strategy, **taught)
        in_ranks(2, *two)
        for kind, name in (("train", "loss"), ("eval", "val_loss")):
            expected, losses = (metrics(out_dir_of(command), kind, name) for command in (one, two))
            assert losses == pytest.approx(expected, abs=SAME_RUN_IN_RANKS), (strategy, kind)


def test_ranks_run_out_of_patience_together(words) -> None:  # type: ignore[no-untyped-def]
    hopeless = {"learning_rate": 1.0, "min_lr": 1.0, "grad_clip": 0.0, "eval_interval": 3, "patience": 2}
    one, two = words("1-patience", **hopeless), words("2-patience", **hopeless)
    in_ranks(1, *one)
    in_ranks(2, *two)
    stops = [len(metrics(out_dir_of(command), "train", "loss")) for command in (one, two)]
    assert stops[0] == stops[1] < 50


def test_minutes_end_all_ranks(words) -> None:  # type: ignore[no-untyped-def]
    command = words("minutes", minutes=0.1, max_iters=100_000, lr_decay_iters=100_000, eval_interval=1000)
    in_ranks(2, *command)
    summary = json.loads((out_dir_of(command) / "summary.json").read_text())
    assert 1 <= summary["iterations"] < 100_000
    assert summary["iterations"] == len(metrics(out_dir_of(command), "train", "loss"))


def test_what_is_not_finite_takes_all_ranks_back_and_is_given_up_with_one_line(words) -> None:  # type: ignore[no-untyped-def]
    changes = {"learning_rate": 1e30, "min_lr": 1e30, "warmup_iters": 0, "grad_clip": 0.0, "checkpoint_interval": 1}
    said = []
    for count in (1, 2):
        ranks = Ranks(count, *words(f"{count}-nan", **changes))
        assert ranks.wait() == [1] * count
        first, *others = ranks.said()
        assert not any(others)
        said.append([line.split("; windows")[0] for line in first.splitlines()])
    assert said[0][:-1] == said[1][:-1]
    assert "nothing of it is saved" in said[1][-1]


def test_a_batch_that_ranks_cannot_share_is_refused_by_rank_0_alone(words) -> None:  # type: ignore[no-untyped-def]
    ranks = Ranks(3, *words("uneven"))
    assert 0 not in ranks.wait()
    said, *others = ranks.said()
    assert "8 sequences" in said
    assert "3 processes" in said
    assert said.count("\n") == 1
    assert not any(others)
    assert not out_dir_of(words("uneven")).exists()


def test_nccl_without_gpus_is_refused_by_rank_0_alone(words) -> None:  # type: ignore[no-untyped-def]
    ranks = Ranks(2, *words("nccl", backend="nccl"))
    assert ranks.wait() == [2, 2]
    said, *others = ranks.said()
    assert said == "quill: backend = nccl needs a CUDA device for each rank, and this one computes on cpu; use gloo\n"
    assert not any(others)
