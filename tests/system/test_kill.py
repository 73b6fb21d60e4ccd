"""Runs that are killed with kill -9, at random moments and while they save, end as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

import warm
from equality import assert_equal_runs
from quillgpt.cli import main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")

TRAIN = [
    "--data=book.txt",
    "--lr_decay_iters=150",
    "--arch=qwen3",
    "--optimizer=muon",
    "--dropout=0.1",
    "--n_layer=2",
    "--n_head=2",
    "--n_embd=64",
    "--block_size=32",
    "--batch_size=4",
    "--gradient_accumulation_steps=2",
    "--learning_rate=1e-2",
    "--warmup_iters=5",
    "--eval_interval=50",
    "--eval_iters=2",
    "--log_interval=1",
    "--checkpoint_interval=4",
    "--device=cpu",
    "--dtype=float32",
    "--threads=1",
    "--micro_batch_size=4",
    "--attn_path=explicit",
    "--compile=False",
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = random.Random(0)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    (tmp_path / "book.txt").write_text(" ".join(draw.choice(words) for _ in range(5000)) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*words: str) -> warm.Process:
    return warm.start("train", *TRAIN, "--quiet", *words)


def rows(out_dir: Path) -> list[dict[str, float]]:
    """Return the whole rows of a record, which a kill may have cut in the middle of one."""
    try:
        lines = (out_dir / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def wait_for_iteration(process: warm.Process, out_dir: Path, iteration: int) -> None:
    while process.poll() is None and not any(row["iter"] >= iteration for row in rows(out_dir)[-3:]):
        time.sleep(0.001)


def stop_while_saving(process: warm.Process, out_dir: Path, delay: float) -> None:
    """Hold a process somewhere between the first file of a checkpoint and its last rename."""
    while process.poll() is None:
        if unfinished(out_dir):
            time.sleep(delay)
            process.send_signal(signal.SIGSTOP)
            if unfinished(out_dir):
                return
            process.send_signal(signal.SIGCONT)


def unfinished(out_dir: Path) -> list[Path]:
    return list((out_dir / "checkpoints").glob(".writing-*"))


def last_iteration(out_dir: Path) -> int:
    state = out_dir / "checkpoints" / "last" / "training" / "state.json"
    return int(json.loads(state.read_text())["iteration"]) if state.is_file() else 0


def kill_until_done(out_dir: Path, kills: int, iterations: int, seed: int) -> tuple[int, int]:
    """Train a run in as many parts as it is killed, and one more.

    Returns:
        How many kills hit the run at work, and how many of these left a checkpoint half written.
    """
    draw = random.Random(seed)
    flags = [f"--out_dir={out_dir.name}", f"--max_iters={iterations}"]
    hit = saves_hit = 0
    for number in range(kills):
        resume = ["--resume"] if list((out_dir / "checkpoints").glob("iter-*")) else []
        process = start(*flags, *resume)
        done = last_iteration(out_dir)
        wait_for_iteration(process, out_dir, done + draw.randint(1, max(2, 2 * (iterations - done) // (kills + 1))))
        if number % 2:
            stop_while_saving(process, out_dir, draw.choice([0, 0.001, 0.002, 0.004]))
        else:
            time.sleep(draw.random() * 0.02)
        hit += process.poll() is None
        process.kill()
        process.wait()
        saves_hit += bool(unfinished(out_dir))
    resume = ["--resume"] if list((out_dir / "checkpoints").glob("iter-*")) else []
    assert start(*flags, *resume).wait() == 0
    return hit, saves_hit


def check(home: Path, kills: int, iterations: int) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # pytest shows it where the test fails
    assert start("--out_dir=whole", f"--max_iters={iterations}").wait() == 0
    hit, saves_hit = kill_until_done(home / "killed", kills, iterations, seed)
    assert hit == kills
    assert saves_hit >= kills // 2
    assert_equal_runs(home / "whole", home / "killed")


def test_a_run_that_is_killed_three_times_ends_as_if_nothing_had_been(home: Path) -> None:
    check(home, 3, iterations=150)


@pytest.mark.deep
def test_a_run_that_is_killed_twenty_times_ends_as_if_nothing_had_been(home: Path) -> None:
    check(home, 20, iterations=1500)


def test_a_folder_in_which_a_run_trains_is_refused_until_it_is_killed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start("--out_dir=run", "--max_iters=1000000")
    wait_for_iteration(process, home / "run", 10)
    for words in (["--overwrite"], ["--resume"], []):
        assert main(["train", *TRAIN, "--out_dir=run", *words]) == 1
        assert f"run is in use: process {process.pid} trains there" in capsys.readouterr().err
    process.kill()
    process.wait()
    done = last_iteration(home / "run")
    assert done >= 4
    assert main(["train", *TRAIN, "--out_dir=run", "--resume", f"--max_iters={done + 1}"]) == 0
