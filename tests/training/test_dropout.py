"""Dropout is a function of a sequence's place in the global batch, however the batch is divided."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.training import train
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.rollback import restore_state
from quillgpt.training.start.setup import set_up
from quillgpt.training.step import TrainStep

from .conftest import MakeSettings
from .test_rollback import state_of

SAME_GRADIENT = 1e-6
dropout = importlib.import_module("quillgpt.attention.dropout")  # its package has a function of that name
DROPPING: dict[str, dict[str, Any]] = {
    "gpt2": {"arch": "gpt2"},
    "gpt2, fused attention": {"attn_path": "sdpa"},
    "qwen3": {"arch": "qwen3", "n_kv_head": 1},
    "checkpointed": {"gradient_checkpointing": True},
    "GK": {"attn_type": "GK", "attn_path": "recompute"},
    "GKn": {"attn_type": "GKn", "attn_path": "augmented", "arch": "qwen3"},
    "PA": {"attn_type": "PA_softplus", "attn_path": "recompute", "gradient_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
}


def gradient_of(step: TrainStep, iteration: int = 3, rows: slice = slice(0, 8)) -> Tensor:
    """Return loss and gradient of an iteration, or of a rank's rows of it, as one vector."""
    step.rows = rows
    step.model.train()
    step.model.zero_grad(set_to_none=True)
    loss = step.accumulate_gradient(iteration, *step.batch(iteration))
    gradients = [p.grad.flatten() for p in step.model.parameters() if p.grad is not None]
    return torch.cat([loss.view(1), *gradients])


def step_of(tiny: MakeSettings, **changes: Any) -> TrainStep:
    return make_step(set_up(tiny(**({"dropout": 0.3} | changes))))


@pytest.mark.parametrize("changes", DROPPING.values(), ids=DROPPING)
def test_the_gradient_is_the_same_however_the_batch_is_divided(tiny: MakeSettings, changes: dict[str, Any]) -> None:
    tolerance = 2e-3 if "dtype" in changes else SAME_GRADIENT
    whole = gradient_of(step_of(tiny, micro_batch_size=8, **changes))
    for size in (1, 2, 3):
        divided = step_of(tiny, micro_batch_size=size, **changes)
        torch.testing.assert_close(gradient_of(divided), whole, atol=tolerance, rtol=0)
    halves = [gradient_of(divided, rows=rows) for rows in (slice(0, 4), slice(4, 8))]  # of two ranks
    torch.testing.assert_close(halves[0] + halves[1], whole, atol=tolerance, rtol=0)


def test_adapters_drop_the_same_however_the_batch_is_divided(tiny: MakeSettings, tmp_path: Path) -> None:
    train(tiny(max_iters=1, out_dir=str(tmp_path / "base")))
    adapted = {"init_from": str(tmp_path / "base"), "lora_rank": 2, "lora_dropout": 0.3}
    whole, divided = (step_of(tiny, micro_batch_size=size, dropout=0.0, **adapted) for size in (8, 3))
    for step in (whole, divided):
        with torch.no_grad():
            for name, parameter in step.model.named_parameters():
                if name.endswith("lora_b"):  # which begins at 0, where no dropout matters
                    parameter.fill_(0.1)
    torch.testing.assert_close(gradient_of(divided), gradient_of(whole), atol=SAME_GRADIENT, rtol=0)
    assert not torch.equal(gradient_of(whole, 4), gradient_of(whole, 3))


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_too(tiny: MakeSettings) -> None:
    changes = {"n_layer": 1, "n_embd": 16, "n_head": 1}
    whole = gradient_of(step_of(tiny, micro_batch_size=8, **changes))
    compiled = step_of(tiny, micro_batch_size=4, compile=True, **changes)
    torch.testing.assert_close(gradient_of(compiled), whole, atol=1e-5, rtol=0)


def test_every_place_in_model_batch_and_run_drops_other_elements(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []
    draw = dropout.generated_factors

    def noted(*arguments: Any) -> Tensor:
        factors = draw(*arguments)
        drawn.extend(bytes((row != 0).flatten()[:512].numpy()) for row in factors)
        return factors

    train(tiny(max_iters=1, out_dir=str(tmp_path / "base"), block_size=32))
    adapted = {"init_from": str(tmp_path / "base"), "block_size": 32, "lora_rank": 2, "lora_dropout": 0.5}
    step = step_of(tiny, dropout=0.5, **adapted)
    monkeypatch.setattr(dropout, "generated_factors", noted)
    for iteration in range(2):
        gradient_of(step, iteration)
    # Of each iteration and sequence: the embedding, and in each of two blocks three places and four adapters.
    assert len(drawn) == 2 * 8 * (1 + 2 * 7)
    assert len(set(drawn)) == len(drawn)


def test_resuming_and_rolling_back_go_on_with_the_dropout_that_a_run_began_with(
    tiny: MakeSettings, tmp_path: Path
) -> None:
    settings = tiny(dropout=0.3, max_iters=4)
    train(settings)
    assert state_of(settings.out_dir)["dropout_by_sequence"] is True
    for by_sequence in (False, True):  # False: begun by a version without it
        state = TrainingState(dropout_by_sequence=by_sequence, iteration=3)
        restore_state(state, None)
        assert (state.iteration, state.dropout_by_sequence) == (0, by_sequence)


def test_a_run_that_began_before_draws_from_pytorchs_generator_as_it_did(tiny: MakeSettings) -> None:
    step = step_of(tiny, micro_batch_size=4)
    step.restore(TrainingState())
    assert step.dropout_seeds(3) is None
    inputs, targets = step.batch(3)
    actual = gradient_of(step)
    step.model.zero_grad(set_to_none=True)
    step.seed(3)
    loss = sum(step.model.loss_sum(inputs[rows], targets[rows]) for rows in (slice(0, 4), slice(4, 8)))
    assert float(loss) / targets.numel() == pytest.approx(float(actual[0]), abs=SAME_GRADIENT)


def test_without_dropout_there_are_no_seeds(tiny: MakeSettings) -> None:
    assert step_of(tiny, dropout=0.0).dropout_seeds(0) is None
