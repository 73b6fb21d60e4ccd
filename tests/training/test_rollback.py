"""A loss or gradient that is not finite never reaches the weights: the run goes back, and leaves the batch out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from equality import assert_equal_runs, assert_equal_tensors
from quillgpt.checkpoint import TrainingState
from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.data.batches import TrainingBatches
from quillgpt.errors import UserError
from quillgpt.model.gpt import LayerNorm, RMSNorm
from quillgpt.plots.record import read_metrics
from quillgpt.proof.compare import record_of
from quillgpt.training import train
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.fault import NonFiniteError, find_fault
from quillgpt.training.rollback import Rollback, lr_multiplier
from quillgpt.training.start.setup import set_up

from .conftest import MakeSettings, allow_float16
from .test_resume import train_until


@contextmanager
def poisoned(monkeypatch: pytest.MonkeyPatch, windows: set[int], module: type[nn.Module] = LayerNorm) -> Iterator[None]:
    """Let the outputs of a kind of modules be NaN in all windows that start at these tokens."""
    read_batch = TrainingBatches.batch
    rows: list[int] = []

    def reading(batches: TrainingBatches, iteration: int, own: slice = slice(None)) -> tuple[Tensor, Tensor]:
        rows[:] = [row for row, window in enumerate(batches.windows(iteration)[own]) if window.offset in windows]
        return read_batch(batches, iteration, own)

    def spoil(module_: nn.Module, arguments: object, output: Tensor) -> Tensor | None:
        if not rows or not torch.is_grad_enabled() or not isinstance(module_, module):
            return None
        output = output.clone()
        output[rows] = math.nan
        return output

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "batch", reading)
        hook = nn.modules.module.register_module_forward_hook(spoil)
        yield
        hook.remove()


def windows_of(tiny: MakeSettings, iteration: int) -> list[int]:
    run = set_up(tiny(out_dir="elsewhere"))
    return [window.offset for window in run.batches.windows(iteration)]


def state_of(out_dir: str) -> dict[str, Any]:
    return dict(json.loads((checkpoints_folder(Path(out_dir)) / "last/training/state.json").read_text()))


@pytest.mark.parametrize("spoiled", [1, 6])
def test_a_poisoned_batch_is_named_and_left_out(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoiled: int
) -> None:
    settings = tiny(micro_batch_size=8, dropout=0.1)
    windows = windows_of(tiny, spoiled)
    with poisoned(monkeypatch, {windows[3]}):
        summary = train(settings)
    assert summary is not None
    assert summary.iterations == 12
    assert summary.left_out == [spoiled + 1]
    assert summary.tokens == 11 * settings.tokens_per_iteration
    said = " ".join(capsys.readouterr().err.split())
    where = f"iter {spoiled + 1}: the loss is nan, first in the output of blocks.0.attention_norm"
    assert f"{where}; windows at token {windows[3]:,} of the training split, the first beginning with" in said
    back_to = 4 if spoiled == 6 else 0
    assert f"back to iter {back_to}; iter {spoiled + 1} will be left out" in said
    (rollback,) = state_of(settings.out_dir)["rollbacks"]
    assert (rollback["iteration"], rollback["back_to"], rollback["windows"]) == (spoiled, back_to, [windows[3]])
    [warning] = [row for row in read_metrics(Path(settings.out_dir) / "metrics.jsonl") if row["kind"] == "warning"]
    assert warning["iter"] == back_to
    assert warning["text"].startswith(f"back to iter {back_to}: iter {spoiled + 1} was not finite (the loss is nan")
    rates = {row[1]: row[3] for row in record_of(Path(settings.out_dir)) if row[0] == "train"}
    assert spoiled + 1 not in rates
    assert sorted(rates) == [each for each in range(1, 13) if each != spoiled + 1]
    if back_to == 0:
        assert rates[1] == pytest.approx(0.5 * 1e-2 / 3)
    assert rates[12] == pytest.approx(1e-3 + (1e-2 - 1e-3) * 0.5 * (1 + math.cos(math.pi * 9 / 10)))


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "arch": "qwen3", "optimizer": "muon"}], ids=["", "average"])
def test_a_run_stopped_after_a_rollback_ends_as_if_it_had_not_been(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole, parts = (tiny(out_dir=str(tmp_path / name), micro_batch_size=8, **changes) for name in ("whole", "parts"))
    kind = RMSNorm if changes else LayerNorm
    with poisoned(monkeypatch, set(windows_of(tiny, 6)), kind):
        train(whole)
        train_until(parts, 9, monkeypatch)
        train(parts.model_copy(update={"init_from": "resume"}))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert len(state_of(parts.out_dir)["rollbacks"]) == 1


def test_going_back_restores_everything(tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learning rate left as it is, the run becomes the one that only lacks the update of that batch."""
    monkeypatch.setattr("quillgpt.training.rollback.LOWERED", 1.0)
    early, late = (tiny(out_dir=str(tmp_path / name), micro_batch_size=8, ema_decay=0.8) for name in ("early", "late"))
    with poisoned(monkeypatch, set(windows_of(tiny, 4))):
        train(early)  # back to iteration 4, where nothing has changed since
    skipped_at_four = load_file(checkpoints_folder(tmp_path / "early") / "last/model.safetensors")
    with poisoned(monkeypatch, set(windows_of(tiny, 4))):
        train(late.model_copy(update={"eval_interval": 12}))  # back to the start
    again = load_file(checkpoints_folder(tmp_path / "late") / "last/model.safetensors")
    assert_equal_tensors(skipped_at_four, again)


def test_stop_ends_the_run_and_leaves_the_last_good_checkpoint(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(on_nonfinite="stop")
    with poisoned(monkeypatch, set(windows_of(tiny, 6))):
        with pytest.raises(UserError, match=r"iter 7 is not finite \(the loss is nan, .*--on_nonfinite=rollback or"):
            train(settings)
        assert state_of(settings.out_dir)["iteration"] == 4
        record = Path(settings.out_dir) / "metrics.jsonl"
        failed = read_metrics(record)[-1]
        assert (failed["kind"], failed["iter"]) == ("failed", 6)
        assert failed["text"].startswith("iter 7 is not finite (the loss is nan, ")
        summary = train(settings.model_copy(update={"init_from": "resume", "on_nonfinite": "rollback"}))
    assert summary is not None
    assert summary.left_out == [7]
    assert "failed" not in {row["kind"] for row in read_metrics(record)}


def test_a_run_that_fails_again_and_again_is_given_up(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny(max_iters=40)
    spoiled = {start for iteration in range(5, 40) for start in windows_of(tiny, iteration)}
    with poisoned(monkeypatch, spoiled), pytest.raises(UserError, match=r"is not finite .*--learning_rate below 0.01"):
        train(settings)
    state = state_of(settings.out_dir)
    assert state["iteration"] == 8
    assert len(state["rollbacks"]) == 3
    weights = load_file(checkpoints_folder(Path(settings.out_dir)) / "last/model.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())


def test_an_infinite_gradient_stops_before_the_update_and_is_named(tiny: MakeSettings) -> None:
    run = set_up(tiny(micro_batch_size=8, grad_clip=0.0))

    class Break(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, value: Tensor) -> Tensor:
            return value.clone()

        @staticmethod
        def backward(context: Any, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.inf

    run.model.blocks[1].mlp.register_forward_hook(lambda module, arguments, output: Break.apply(output))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    step = make_step(run)
    with pytest.raises(NonFiniteError, match="the norm of the gradient is"):
        step(0, 0.01)
    assert all(tensor.equal(before[name]) for name, tensor in run.model.state_dict().items())
    assert run.optimizers.state() == {}
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert find_fault(step, 0).place == "the gradient of blocks.1.mlp.down"


def test_a_spoiled_weight_is_named(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    with torch.no_grad():
        run.model.blocks[1].mlp.up.weight[0, 0] = math.inf
    assert find_fault(make_step(run), 0).place == "the weight blocks.1.mlp.up.weight"


def test_a_fault_that_does_not_come_again_is_called_so(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    fault = find_fault(make_step(run), 3)
    assert fault.place is None
    assert fault.windows == run.batches.windows(3)


def test_overflows_of_float16_are_the_scalers_and_are_counted(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_float16(monkeypatch)
    settings = tiny(dtype="float16")
    run = set_up(settings)
    step = make_step(run)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    step(0, 0.01)
    assert step.overflows == 1
    assert all(tensor.equal(before[name]) for name, tensor in run.model.state_dict().items())
    assert step.scaler.get_scale() == 2.0**99
    summary = train(settings)
    assert summary is not None
    assert summary.left_out == []


def test_the_rate_is_lowered_from_where_the_run_went_back_to_until_an_interval_after(tiny: MakeSettings) -> None:
    records = [Rollback(iteration=each, back_to=15, reason="", windows=[]) for each in (20, 22)]
    state = TrainingState(rollbacks=records)
    factors = [lr_multiplier(each, state, tiny()) for each in (14, 15, 24, 25, 26, 27)]
    assert factors == [1, 0.25, 0.25, 0.5, 0.5, 1]


def test_windows_are_those_of_the_batch(tiny: MakeSettings) -> None:
    run = set_up(tiny())
    inputs, _ = run.batches.batch(2)
    windows = run.batches.windows(2)
    expected = [
        run.mixture.datasets[0].train[window.offset : window.offset + 16].astype(np.int64) for window in windows
    ]
    assert np.array_equal(inputs.numpy(), np.stack(expected))
