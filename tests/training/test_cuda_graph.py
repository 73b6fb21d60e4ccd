"""The iteration that a GPU records: the same numbers as the plain one, and a flag in place of an exception."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from quillgpt.checkpoint.names import checkpoints_folder
from quillgpt.proof.compare import record_of
from quillgpt.training import cuda_graph, train
from quillgpt.training.cuda_graph import WARM_UP_ITERATIONS, CudaGraphStep, make_step
from quillgpt.training.fault import NonFiniteError
from quillgpt.training.run import Run
from quillgpt.training.start.setup import set_up
from quillgpt.training.step import StepResult, TrainStep, Votes

from .conftest import MakeSettings, Steps
from .test_rollback import poisoned, state_of, windows_of

RUNS: list[dict[str, Any]] = [
    {"dropout": 0.1},
    {"arch": "qwen3", "optimizer": "muon", "dtype": "bfloat16", "ema_decay": 0.9},
]


def recorded(run: Run, kind: type[CudaGraphStep] = CudaGraphStep) -> CudaGraphStep:
    return kind(run.model, run.optimizers, run.batches, run.settings, run.machine, run.average)


def weights(run: Run) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.model.parameters()]


@pytest.mark.parametrize("changes", RUNS, ids=["gpt2", "qwen3"])
def test_it_computes_what_the_plain_step_computes(tiny: MakeSettings, changes: dict[str, Any]) -> None:
    plain, other = set_up(tiny(**changes)), set_up(tiny(**changes))
    plain_step, step = make_step(plain), recorded(other)
    for iteration in range(4):
        result, plain_result = step(iteration, 0.005), plain_step(iteration, 0.005)
        assert (float(result.loss), float(result.grad_norm)) == (
            float(plain_result.loss),
            float(plain_result.grad_norm),
        )
    step.synchronize()
    for one, two in zip(weights(plain), weights(other), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_from_a_value_that_is_not_finite_on_no_weight_changes_and_synchronizing_tells(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = set_up(tiny(micro_batch_size=8, optimizer="muon", weight_decay=0.1))
    step = recorded(run)
    with poisoned(monkeypatch, set(windows_of(tiny, 2))):
        for iteration in range(2):
            step(iteration, 0.01)
        step.synchronize()
        before = weights(run)
        for iteration in range(2, 5):
            step(iteration, 0.01)
        with pytest.raises(NonFiniteError, match="the loss is nan") as caught:
            step.synchronize()
    assert caught.value.iteration == 2
    assert all(torch.equal(one, two) for one, two in zip(before, weights(run), strict=True))
    step.synchronize()
    step(5, 0.01)
    assert not all(torch.equal(one, two) for one, two in zip(before, weights(run), strict=True))


def test_a_run_recovers_as_with_the_plain_step(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of iteration 6 is only seen when iteration 8 is logged, and everything since is taken back."""
    settings = [
        tiny(out_dir=str(tmp_path / name), micro_batch_size=8, log_interval=4, eval_interval=4)
        for name in ("plain", "recorded")
    ]
    with poisoned(monkeypatch, set(windows_of(tiny, 6))):
        for each, kind in zip(settings, (TrainStep, CudaGraphStep), strict=True):
            monkeypatch.setattr(cuda_graph, "TrainStep", kind)
            summary = train(each)
            assert summary is not None
            assert summary.left_out == [7]
    assert state_of(settings[1].out_dir)["rollbacks"] == state_of(settings[0].out_dir)["rollbacks"]
    one, two = (load_file(checkpoints_folder(Path(each.out_dir)) / "last/model.safetensors") for each in settings)
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-5)
    one_row, two_row = (record_of(Path(each.out_dir))[-1] for each in settings)
    assert one_row[:2] == two_row[:2] == ("eval", 12)


class UnrecordedStep(CudaGraphStep):
    """Computes every iteration on the GPU, instead of replaying one."""

    def __call__(self, iteration: int, lr: float, votes: Votes | None = None) -> StepResult:
        self._done = 0
        return super().__call__(iteration, lr, votes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", RUNS, ids=["gpt2", "qwen3"])
def test_what_a_gpu_repeats_is_what_it_computes(tiny: MakeSettings, changes: dict[str, Any]) -> None:
    # In one micro-batch: the plain step seeds the dropout of fused attention for each, the recorded one once.
    on_gpu = {"device": "cuda", "attn_path": "sdpa", "deterministic": True, "micro_batch_size": 8, **changes}
    replayed, unrecorded, plain = (set_up(tiny(cuda_graph=graph, **on_gpu)) for graph in ("auto", True, False))
    steps = Steps(replayed), Steps(unrecorded, recorded(unrecorded, UnrecordedStep)), Steps(plain)
    assert [type(each.step) for each in steps] == [CudaGraphStep, UnrecordedStep, TrainStep]
    for iteration in range(2 * WARM_UP_ITERATIONS):
        losses = [each(iteration) for each in steps]
        assert losses[0] == losses[1]
        assert math.isclose(losses[0], losses[2], rel_tol=1e-2)  # Muon's rates are rounded to float32 on the GPU
    steps[0].step.synchronize()
    assert all(torch.equal(one, two) for one, two in zip(weights(replayed), weights(unrecorded), strict=True))
