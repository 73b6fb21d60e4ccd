"""Tests of training in which each rank holds a part of the weights, and of Muon, whose work ranks share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from quillgpt.checkpoint import load_run
from quillgpt.checkpoint.names import LAST, checkpoints_folder
from ranks import Ranks, in_ranks, metrics, out_dir_of
from tolerances import SAME_RUN_IN_RANKS

SMALL = {"vocab_size": 260, "n_embd": 36, "n_head": 3}
MUON = SMALL | {
    "optimizer": "muon",
    "muon_learning_rate": 3e-3,
    "muon_beta2": 0.9,
    "ema_decay": 0.9,
    "arch": "qwen3",
    "n_kv_head": 1,
}
SHORT = {"max_iters": 20, "eval_interval": 10}
REPLAY = SHORT | {"replay": 0.25, "replay_dataset": "other", "micro_batch_size": 1, "gradient_checkpointing": True}
KERNEL = SHORT | {"attn_type": "GKn", "learn_tau": True, "attn_path": "recompute"}

RUNS: dict[str, tuple[dict[str, object], list[tuple[int, str]]]] = {
    "adamw": (SMALL, [(2, "fsdp"), (4, "fsdp")]),
    "muon and an average": (MUON, [(2, "ddp"), (2, "fsdp"), (4, "fsdp")]),
    "replay in small micro-batches": (SMALL | REPLAY, [(2, "fsdp")]),
    "a kernel": (SMALL | KERNEL, [(2, "fsdp")]),
}


def assert_same_run(one: list[str], other: list[str]) -> None:
    """Check that two runs have the same losses and have saved the same tensors."""
    for kind, name in (("train", "loss"), ("eval", "train_loss"), ("eval", "val_loss")):
        expected, numbers = (metrics(out_dir_of(words), kind, name) for words in (one, other))
        assert numbers == pytest.approx(expected, abs=SAME_RUN_IN_RANKS), (kind, name)
        assert len(numbers) > 1
    expected, numbers = (metrics(out_dir_of(words), "train", "grad_norm") for words in (one, other))
    assert numbers == pytest.approx(expected, rel=1e-3)
    expected_files, files = (files_of(out_dir_of(words)) for words in (one, other))
    assert files == expected_files
    expected_tensors, tensors = (tensors_of(out_dir_of(words)) for words in (one, other))
    assert tensors.keys() == expected_tensors.keys()
    for name, expected_tensor in expected_tensors.items():
        assert tensors[name].shape == expected_tensor.shape
        assert float((tensors[name] - expected_tensor).norm() / (expected_tensor.norm() + 1e-3)) < 0.02, name


def files_of(out_dir: Path) -> dict[str, int]:
    """Return the sizes of the files with tensors in a run's last checkpoint."""
    folder = checkpoints_folder(out_dir) / LAST
    return {path.name: path.stat().st_size for path in folder.rglob("*.safetensors")}


def tensors_of(out_dir: Path) -> Mapping[str, torch.Tensor]:
    """Return all that a run's last checkpoint holds, the model and what resuming needs."""
    loaded, stored = load_run(out_dir)
    return {**loaded.weights, **stored.optimizer, **{f"raw {k}": v for k, v in (stored.raw_weights or {}).items()}}


@pytest.mark.parametrize("run", RUNS)
def test_ranks_train_and_save_as_one_process_does(run: str, words) -> None:  # type: ignore[no-untyped-def]
    settings, worlds = RUNS[run]
    one = words(f"1 {run}", **settings)
    in_ranks(1, *one)
    for count, strategy in worlds:
        several = words(f"{count} {strategy} {run}", strategy=strategy, **settings)
        in_ranks(count, *several)
        assert_same_run(one, several)


def test_a_run_goes_on_in_other_processes_and_under_the_other_strategy(words) -> None:  # type: ignore[no-untyped-def]
    whole = words("whole", **MUON)
    in_ranks(1, *whole)
    steps = [(2, "fsdp", 10), (1, "ddp", 20), (4, "fsdp", 30), (2, "ddp", 40), (2, "fsdp", 50)]
    for count, strategy, end in steps:
        init_from = "scratch" if end == 10 else "resume"
        parts = words("parts", **MUON, strategy=strategy, max_iters=end, init_from=init_from, checkpoint_interval=10)
        in_ranks(count, *parts)
    assert metrics(out_dir_of(parts), "train", "loss") == pytest.approx(
        metrics(out_dir_of(whole), "train", "loss"), abs=SAME_RUN_IN_RANKS
    )


def test_adapters_are_trained_in_parts(words) -> None:  # type: ignore[no-untyped-def]
    base = words("base", **SMALL, max_iters=5)
    in_ranks(1, *base)
    tuned = {"init_from": out_dir_of(base), "lora_rank": 3, "dataset": "other", "patience": 9, "dropout": 0.0} | SHORT
    one, two = words("1 lora", **tuned), words("2 lora", **tuned, strategy="fsdp")
    in_ranks(1, *one)
    in_ranks(2, *two)
    assert_same_run(one, two)


def test_going_back_restores_the_part_of_each_rank(words) -> None:  # type: ignore[no-untyped-def]
    fault = {"FAULT": "poisoned_batch:27"}
    one, two = words("1 poisoned", **MUON, quiet=False), words("2 poisoned", **MUON, strategy="fsdp", quiet=False)
    said = [in_ranks(count, *command, environment=fault) for count, command in ((1, one), (2, two))]
    for line in said:
        assert "first in the output of token_embedding" in line
        assert "back to iter 25" in line
    assert "peak memory" not in said[0]
    assert re.search(r"peak memory: [\d.]+ .B on rank 0, [\d.]+ .B on rank 1", said[1])
    assert_same_run(one, two)


def test_a_full_disk_is_a_warning_on_rank_0_and_training_goes_on_everywhere(words) -> None:  # type: ignore[no-untyped-def]
    command = words("full", **MUON, strategy="fsdp", checkpoint_interval=20)
    ranks = Ranks(2, *command, environment={"FAULT": "full_disk:1"})
    assert ranks.wait() == [1, 1]
    said, other = ranks.said()
    assert "the checkpoint of iter 40 cannot be written: No space left on device; iter-000020 is kept" in said
    assert "iter 50 could not be saved" in said
    assert "quill:" not in other
    in_ranks(2, *words("full", **MUON, strategy="fsdp", init_from="resume"))
    assert (checkpoints_folder(out_dir_of(command)) / "iter-000050").is_dir()


def test_float16_is_refused_in_one_line(words) -> None:  # type: ignore[no-untyped-def]
    ranks = Ranks(2, *words("half", strategy="fsdp", dtype="float16"))
    assert ranks.wait() == [2, 2]
    said, other = ranks.said()
    assert said == ("quill: strategy = fsdp does not scale the gradients of dtype = float16; use bfloat16, or ddp\n")
    assert "quill:" not in other
