"""Runs with a large vocabulary compute their loss in parts; runs that began without go on without."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equality import assert_equal_runs, state_of
from quillgpt.checkpoint import TrainingState
from quillgpt.evaluation import loss as evaluation
from quillgpt.evaluation.loss import Score, score_split
from quillgpt.model import GPT, GPTConfig, cost, gpt, loss
from quillgpt.proof.compare import require_equal_runs
from quillgpt.training import train
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.fault import find_fault
from quillgpt.training.rollback import restore_state
from quillgpt.training.start import memory, starting_point
from quillgpt.training.start.model_config import config_for
from quillgpt.training.start.setup import set_up
from quillgpt.training.step import TrainStep

from .conftest import MakeSettings, allow_float16

CPU = torch.device("cpu")
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "qwen3": {"arch": "qwen3", "n_kv_head": 1},
    "checkpointed": {"gradient_checkpointing": True, "dropout": 0.2},
    "average": {"ema_decay": 0.9},
    "penalty": {"attn_type": "GKn", "attn_path": "recompute", "range_penalty": 0.1, "range_limit": 1.0},
    "bfloat16": {"dtype": "bfloat16"},
    "uneven micro-batches": {"micro_batch_size": 3},
}


def divide_losses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let every loss be computed in parts of 21 tokens, and return the tokens of each loss with a gradient."""
    monkeypatch.setattr(loss, "MANY_LOGITS", 0)
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 21)
    tokens: list[int] = []
    divided = loss.linear_cross_entropy_sum

    def noted(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        tokens.append(targets.numel())
        return divided(hidden, weight, targets)

    monkeypatch.setattr(gpt, "linear_cross_entropy_sum", noted)
    return tokens


def gradient_of(step: TrainStep) -> Tensor:
    step.model.train()
    step.model.zero_grad(set_to_none=True)
    value = step.accumulate_gradient(3, *step.batch(3))
    gradients = [each.grad.flatten() for each in step.model.parameters() if each.grad is not None]
    return torch.cat([value.view(1), *gradients])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_of_an_iteration_is_the_same(
    variant: str, tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = VARIANTS[variant]
    whole = gradient_of(make_step(set_up(tiny(**changes))))
    tokens = divide_losses(monkeypatch)
    parts = gradient_of(make_step(set_up(tiny(**changes))))
    assert sum(tokens) == 8 * 16
    tolerance = 1e-2 if changes.get("dtype") == "bfloat16" else 1e-5
    assert float((parts - whole).norm() / whole.norm()) < tolerance


def test_adapters_leave_the_head_without_a_gradient(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(max_iters=1, out_dir=str(tmp_path / "base")))
    adapted = tiny(init_from=str(tmp_path / "base"), lora_rank=2, lora_dropout=0.0)
    whole = gradient_of(make_step(set_up(adapted)))
    assert sum(divide_losses(monkeypatch)) == 0
    step = make_step(set_up(adapted))
    torch.testing.assert_close(gradient_of(step), whole, atol=1e-6, rtol=1e-4)
    assert step.model.head.weight.grad is None


def test_the_scaler_of_float16_works_as_before(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_float16(monkeypatch)
    tokens = divide_losses(monkeypatch)
    train(tiny(max_iters=2))
    assert not tokens  # float16 is left out


def test_a_run_in_parts_is_resumed_bit_for_bit(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = divide_losses(monkeypatch)
    train(tiny(out_dir=str(tmp_path / "whole"), ema_decay=0.9))
    train(tiny(out_dir=str(tmp_path / "cut"), ema_decay=0.9, max_iters=8))
    train(tiny(out_dir=str(tmp_path / "cut"), ema_decay=0.9, init_from="resume"))
    assert tokens
    assert state_of(tmp_path / "whole")["loss_in_parts"] is True
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_a_run_that_began_before_goes_on_bit_for_bit(
    tiny: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(out_dir=str(tmp_path / "whole"), ema_decay=0.9))  # its vocabulary is small
    tokens = divide_losses(monkeypatch)
    monkeypatch.setattr(evaluation, "token_losses", lambda *_: pytest.fail("evaluated in parts"))
    old = TrainingState(dropout_by_sequence=True)
    assert not old.loss_in_parts
    monkeypatch.setattr(starting_point, "TrainingState", lambda **_: old)
    train(tiny(out_dir=str(tmp_path / "cut"), ema_decay=0.9, max_iters=8))
    monkeypatch.undo()
    tokens = divide_losses(monkeypatch)
    train(tiny(out_dir=str(tmp_path / "cut"), ema_decay=0.9, init_from="resume"))
    assert not tokens
    assert state_of(tmp_path / "cut")["loss_in_parts"] is False
    require_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_going_back_keeps_how_the_loss_is_computed() -> None:
    for in_parts in (False, True):
        state = TrainingState(loss_in_parts=in_parts, iteration=3)
        restore_state(state, None)
        assert (state.iteration, state.loss_in_parts) == (0, in_parts)


def test_a_split_is_scored_in_parts_as_at_once(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    run = set_up(tiny())
    text = run.texts[0]

    def score() -> Score:
        return score_split(run.model, text.tokenizer, text.val, batch_size=4, dtype=torch.float32)

    whole = score()
    divide_losses(monkeypatch)
    parts = score()
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.units is not None
    assert parts.estimate.standard_error == pytest.approx(whole.estimate.standard_error, rel=1e-4)


def test_a_weight_gradient_that_is_not_finite_is_found_in_the_head(
    tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide_losses(monkeypatch)
    step = make_step(set_up(tiny()))
    step.model.head.weight = nn.Parameter(step.model.head.weight.detach().clone())  # as in models from elsewhere
    step.model.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    assert find_fault(step, 0).place == "the gradient of head"


def test_a_loss_that_is_not_finite_is_named(tiny: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    divide_losses(monkeypatch)
    step = make_step(set_up(tiny()))
    with torch.no_grad():
        step.model.final_norm.weight.fill_(3e38)
        step.model.head.weight.mul_(1e3)
    assert find_fault(step, 0).place in ("the loss", "the output of final_norm")


def test_memory_is_planned_for_parts(tiny: MakeSettings) -> None:
    settings = tiny(block_size=256, n_embd=768, n_head=12, batch_size=16)
    config = config_for(settings, "gpt2", 50_257)
    logits = config.vocab_size * 16 * 256

    def needed(dtype: torch.dtype) -> int:
        return memory.memory_needed(settings, config, device=CPU, dtype=dtype)(16).activations

    # float16 keeps log-probabilities of all tokens and their gradient, and bfloat16 a part's logits.
    saved = needed(torch.float16) - needed(torch.bfloat16)
    gradients = 4 * config.n_embd * (config.vocab_size + 16 * 256)
    assert saved == 8 * logits - 2 * logits * loss.TOKENS_AT_ONCE // (16 * 256) - gradients
    large = tiny(block_size=1024, n_embd=768, n_head=12, micro_batch_size=8)
    lack = memory._least_memory(large, config)
    assert lack["the logits of 2,048 tokens over 50,304 others"] == 2 * 2048 * 50_304
    on_gpu = memory._least_memory(large, config, device=torch.device("cuda"))
    assert on_gpu["the logits of 8 x 1,024 tokens over 50,304 others"] == 2 * 8192 * 50_304


@pytest.mark.parametrize("trained", [True, False])
def test_the_memory_of_an_iteration_is_as_planned(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "MANY_LOGITS", 0)
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 128)
    monkeypatch.setattr(cost, "TOKENS_AT_ONCE", 128)
    monkeypatch.setattr(loss, "LOGITS_IN_CACHE", 10_000)  # which the plan leaves out
    sizes = {"n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 32, "head_dim": 16, "mlp_dim": 128}
    config = GPTConfig(arch="gpt2", vocab_size=10_000, block_size=128, tied=False, **sizes)  # type: ignore[arg-type]
    model = GPT(config)
    model.head.requires_grad_(trained)
    model.token_embedding.requires_grad_(False)
    tokens = torch.randint(10_000, (8, 128))
    with torch.profiler.profile(profile_memory=True) as profile:
        model.loss_sum(tokens, tokens).backward()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    planned = cost.training_memory(
        config,
        parameters=0,
        trained=0,
        remembered=0,
        sequences=8,
        attn_path="sdpa",
        dropout=False,
        value_bytes=4,
        in_parts=True,
        head_trained=trained,
    )
    assert planned.total == pytest.approx(peak, rel=0.25)
