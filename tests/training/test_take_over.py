"""Compiled code takes over while a run trains: when, what is recorded, and that a resumed run does the same."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from equality import assert_equal_runs
from quillgpt.checkpoint import load_run
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.config import TrainSettings
from quillgpt.native import CACHE_VARIABLE
from quillgpt.plots.record import read_metrics
from quillgpt.proof.outcome import Refuted
from quillgpt.training import take_over, train
from quillgpt.training.compile_process import CompileProcess
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.pace import Pace
from quillgpt.training.rollback import restore
from quillgpt.training.run import Run
from quillgpt.training.start import compile_choice
from quillgpt.training.start.compile_choice import CompiledSpeed, choose_compile, keep_speed, known_speed
from quillgpt.training.start.setup import set_up
from quillgpt.training.take_over import TakeOver
from tiny import tiny_model

from .conftest import MakeSettings
from .test_resume import train_until


class Background:
    """Stands for the process that compiles: it ends at an iteration.

    Attributes:
        ends_at: That iteration.
        failure_then: Why it fails; None if it does not.
        gain: The share of time that compiled code saves.
        running: How many of them run.
    """

    def __init__(self) -> None:
        self.ends_at = 9
        self.failure_then: str | None = None
        self.gain = 0.5
        self.running = 0
        self.begun = 0


@pytest.fixture
def background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Background:
    """Let runs compile in the background at once, by a compiler whose code computes nearly the same."""
    world = Background()

    class Process:
        def __init__(self, settings: Any, config: Any) -> None:
            self.settings, self.config = settings, config
            world.running += 1
            world.begun += 1

        def is_running(self) -> bool:
            return current[0].state.iteration < world.ends_at

        def failure(self) -> str | None:
            if world.failure_then is None:
                run = current[0]
                speed = CompiledSpeed(about="", eager_seconds=1.0, compiled_seconds=1 - world.gain)
                keep_speed(self.settings, self.config, run.machine, speed)
            return world.failure_then

        def stop(self) -> None:
            world.running -= 1

    current: list[Run] = []
    begin = TakeOver.__init__

    def noting(self: TakeOver, run: Run, *arguments: Any) -> None:
        current[:] = [run]
        begin(self, run, *arguments)

    def compiler(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *arguments, **named: function(*arguments, **named) * 1.001

    monkeypatch.setattr(TakeOver, "__init__", noting)
    monkeypatch.setattr(take_over, "CompileProcess", Process)
    monkeypatch.setattr(take_over, "WATCHED_SECONDS", 0.0)
    monkeypatch.setattr(take_over, "WATCHED_ITERATIONS", 0)
    monkeypatch.setattr(take_over, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(take_over, "pays", lambda seconds, gain, *, cost: gain > 0)
    monkeypatch.setattr(take_over, "memory", lambda device: None)
    monkeypatch.setattr(compile_choice, "pays", lambda seconds, gain, *, cost: gain > 0)
    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    return world


def forget(tmp_path: Path) -> None:
    """Remove the compiled code, and with it what is known of it."""
    shutil.rmtree(tmp_path / "compiled")


def state_of(out_dir: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoints_folder(out_dir) / "last/training/state.json").read_text()))


@pytest.mark.parametrize(
    ("stop", "changes"),
    [(4, {"dropout": 0.1}), (9, {"arch": "qwen3", "optimizer": "muon", "ema_decay": 0.9}), (11, {"dropout": 0.1})],
)
def test_a_run_resumed_before_or_after_compiled_code_took_over_equals_the_uninterrupted(
    tiny: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    background: Background,
    stop: int,
    changes: dict[str, Any],
) -> None:
    train(tiny(out_dir=str(tmp_path / "whole"), compile="auto", **changes))
    assert state_of(tmp_path / "whole")["compiled_from"] == background.ends_at
    forget(tmp_path)
    parts = tiny(out_dir=str(tmp_path / "parts"), compile="auto", **changes)
    train_until(parts, stop, monkeypatch)
    after = stop >= background.ends_at
    assert state_of(tmp_path / "parts")["settings"]["compile"] == (True if after else "auto")
    if after:
        forget(tmp_path)  # it is compiled again, whatever that costs
    train(parts.model_copy(update={"init_from": "resume"}))
    assert background.begun == (2 if after else 3)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_taking_over_is_said_recorded_and_saved(
    tiny: MakeSettings, tmp_path: Path, background: Background, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(compile="auto", max_iters=10, always_save_checkpoint=True))
    out_dir = tmp_path / "out"
    said = capsys.readouterr().err
    assert "compiling in the background; training goes on uncompiled meanwhile" in said
    assert "compiled code takes over after iter 9: 2 times as fast" in said
    rows = [row for row in read_metrics(out_dir / "metrics.jsonl") if row["kind"] == "compiled"]
    assert [(row["iter"], row["speedup"]) for row in rows] == [(9, 2.0)]
    assert (checkpoints_folder(out_dir) / "iter-000009").is_dir()
    assert state_of(out_dir)["compiled_from"] == 9
    assert tomllib.loads((out_dir / "config.toml").read_text())["compile"] is True
    assert background.running == 0
    train(tiny(out_dir=str(tmp_path / "eager"), compile=False, max_iters=10))
    with pytest.raises(Refuted):
        assert_equal_runs(out_dir, tmp_path / "eager")


@pytest.mark.parametrize(
    ("failure", "gain", "warnings", "said"),
    [
        ("no space left", 0.5, 1, "compiling in the background failed (no space left); training goes on uncompiled"),
        (None, -0.1, 0, "compiled code would gain nothing here: the run goes on uncompiled"),
    ],
)
def test_without_compiled_code_a_run_goes_on_as_it_is(
    tiny: MakeSettings,
    tmp_path: Path,
    background: Background,
    capsys: pytest.CaptureFixture[str],
    failure: str | None,
    gain: float,
    warnings: int,
    said: str,
) -> None:
    background.failure_then, background.gain = failure, gain
    train(tiny(compile="auto"))
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("warning:") == warnings
    assert said in told
    assert (background.begun, background.running) == (1, 0)
    state = state_of(tmp_path / "out")
    assert (state["compiled_from"], state["settings"]["compile"]) == (None, False)
    train(tiny(out_dir=str(tmp_path / "eager"), compile=False))
    eager, own = (load_run(tmp_path / name)[0].tensors() for name in ("eager", "out"))
    for (_, one), (_, other) in zip(eager, own, strict=True):
        assert torch.equal(one, other)


def test_the_process_that_compiles_ends_with_the_run(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    background.ends_at = 100
    train_until(tiny(compile="auto"), 5, monkeypatch)
    assert (background.begun, background.running) == (1, 0)
    train(tiny(compile="auto", init_from="resume"))
    assert (background.begun, background.running) == (2, 0)


def test_a_rollback_to_before_compiled_code_took_over_is_uncompiled_again(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, background: Background
) -> None:
    train_until(tiny(compile="auto"), 5, monkeypatch)
    run = set_up(tiny(compile="auto", init_from="resume"))
    step = make_step(run)
    assert not step.compiled
    step.start_compiled()
    run.state.iteration, run.state.compiled_from = 6, 6
    assert "forward" in vars(run.model.blocks[0])
    restore(run, step)
    assert (run.state.iteration, run.state.compiled_from, step.compiled) == (5, None, False)
    assert "forward" not in vars(run.model.blocks[0])


@pytest.mark.usefixtures("background")
def test_code_that_is_compiled_already_is_used_from_the_start(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(compile="auto"))
    again = set_up(tiny(compile="auto", out_dir=str(tmp_path / "again")))
    assert (again.settings.compile, again.state.compiled_from) == (True, 0)
    forget(tmp_path)
    assert set_up(tiny(compile="auto", out_dir=str(tmp_path / "again"))).settings.compile == "auto"


@pytest.mark.parametrize(
    ("minutes", "load_seconds", "expected"), [(30, 3.0, True), (0.1, 3.0, False), (2, 50.0, False), (30, 50.0, "auto")]
)
def test_compiled_code_is_loaded_at_the_start_where_that_pays_and_there_is_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, load_seconds: float, expected: bool
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    settings, machine, model = trial(minutes=minutes)
    speed = CompiledSpeed(about="", eager_seconds=1.0, compiled_seconds=0.7, load_seconds=load_seconds)
    keep_speed(settings, model.config, machine, speed)
    assert choose_compile(settings, model, machine, in_background=True) == expected


def test_a_model_is_not_compiled_for_the_first_time_where_that_takes_longer_than_it_gains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compile_choice, "_has_cpp_compiler", lambda: True)
    for minutes, expected in ((0.5, False), (20, "auto")):
        settings, machine, model = trial(minutes=minutes)
        assert choose_compile(settings, model, machine, in_background=True) == expected
    monkeypatch.setattr(compile_choice, "_has_cpp_compiler", lambda: False)
    assert choose_compile(settings, model, machine, in_background=True) is False


def test_what_is_known_of_compiled_code_survives_an_upgrade_that_leaves_the_model_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    settings, machine, model = trial()
    keep_speed(settings, model.config, machine, CompiledSpeed(about="", eager_seconds=2.0, compiled_seconds=1.0))
    monkeypatch.setattr("quillgpt.__version__", "99.0")
    assert known_speed(settings, model.config, machine) is not None
    assert known_speed(settings.model_copy(update={"micro_batch_size": 3}), model.config, machine) is None
    monkeypatch.setattr(compile_choice, "source_hash", lambda: "another")
    assert known_speed(settings, model.config, machine) is None


def test_a_damaged_record_of_compiled_code_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    settings, machine, model = trial()
    keep_speed(settings, model.config, machine, CompiledSpeed(about="", eager_seconds=2.0, compiled_seconds=1.0))
    (path,) = (tmp_path / compile_choice.SPEEDS).iterdir()
    for content in ("", "{}", '{"about": "", "eager_seconds": 0, "compiled_seconds": 1}', "[1]"):
        path.write_text(content)
        assert known_speed(settings, model.config, machine) is None


@pytest.mark.parametrize(
    ("left", "slowdown", "room", "said"),
    [
        (30.0, 1.0, True, "compiling would cost more than it gains in a run of this length"),
        (600.0, 10.0, True, "compiling would cost more than it gains in a run of this length"),
        (3600.0, 1.0, False, "there is too little memory to compile in the background"),
        (3600.0, 1.0, True, "compiling in the background; training goes on uncompiled meanwhile"),
        (3600.0, 10.0, True, "compiling in the background; training goes on uncompiled meanwhile"),
    ],
)
def test_compiling_is_begun_only_where_it_pays_on_a_busy_machine_too(
    tiny: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    background: Background,
    left: float,
    slowdown: float,
    room: bool,
    said: str,
) -> None:
    monkeypatch.setattr(take_over, "pays", compile_choice_pays)
    monkeypatch.setattr(TakeOver, "_has_room", lambda self: room)
    run = set_up(tiny(compile="auto"))
    pace = Pace(run, 0.0)
    monkeypatch.setattr(pace, "remaining_seconds", lambda: left)
    looking = TakeOver(run, make_step(run), pace)
    looking._slowdown = slowdown
    assert looking.look() is None
    assert said in capsys.readouterr().err
    assert background.begun == ("in the background; " in said)
    assert looking.is_open == bool(background.begun)


compile_choice_pays = compile_choice.pays


def trial(minutes: float | None = None) -> tuple[Any, Any, Any]:
    """Return settings, machine and model of a run."""
    model = tiny_model()
    settings = TrainSettings(compile="auto", micro_batch_size=2, block_size=model.config.block_size, device="cpu")
    settings = settings.model_copy(update={"minutes": minutes})
    return settings, compile_choice.Machine(torch.device("cpu"), torch.float32), model


@pytest.mark.skipif(os.name == "nt", reason="has no groups of processes")
def test_a_process_that_compiles_ends_with_the_one_that_started_it(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "compiled"))
    run = set_up(tiny())
    stopped, orphan = (CompileProcess(run.settings, run.model.config) for _ in range(2))
    assert stopped.is_running()
    numbers = [process._process.pid for process in (stopped, orphan)]
    stopped.stop()
    orphan._stdin.close()
    orphan._process.wait(timeout=120)
    assert not any(map(psutil.pid_exists, numbers))
    orphan.stop()
