"""Embedding and loss that are computed in one step each are those of the plain model, and so are their gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from quillgpt.device import autocast
from quillgpt.model import GPT, GPTConfig, fused_rest
from quillgpt.model.fused_rest import read_rows
from quillgpt.native import kernels, why_unavailable
from tolerances import BFLOAT16_FROBENIUS

from .test_fused_block import CONFIG, FLOAT32_FROBENIUS, Surrounded, assert_near, model_of

pytestmark = pytest.mark.skipif(why_unavailable(torch.bfloat16) is not None, reason="there is no C++ compiler")


def outcome(config: GPTConfig, dtype: torch.dtype, *, fused: bool, scale: float = 0.3) -> dict[str, Tensor]:
    """Return the loss of three sequences, and all gradients of a multiple of it."""
    model = model_of(config)
    model.fused_rest = fused
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(config.vocab_size, (3, 42), generator=generator)
    with autocast(ids.device, dtype):
        loss = model.loss_sum(ids[:, :-1], ids[:, 1:])
    (loss * scale).backward()
    return {"loss": loss.detach(), **{name: parameter.grad for name, parameter in model.named_parameters()}}


@pytest.mark.parametrize("change", [{}, {"tied": False}, {"arch": "gpt2"}, {"arch": "gpt2", "bias": True}], ids=str)
@pytest.mark.parametrize("vocab_size", [2, 16, 65, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_compute_what_the_plain_model_does(dtype: torch.dtype, vocab_size: int, change: dict[str, Any]) -> None:
    config = replace(CONFIG, vocab_size=vocab_size, n_embd=50, **change)
    tolerance = FLOAT32_FROBENIUS if dtype == torch.float32 else 3 * BFLOAT16_FROBENIUS
    assert_near(outcome(config, dtype, fused=True), outcome(config, dtype, fused=False), tolerance)


def test_they_are_at_least_as_near_to_float32_as_the_plain_model() -> None:
    truth = outcome(CONFIG, torch.float32, fused=False)
    plain, fused = (outcome(CONFIG, torch.bfloat16, fused=fused) for fused in (False, True))
    for name, value in truth.items():
        assert (fused[name] - value).norm() < 1.5 * (plain[name] - value).norm() + 1e-2 * value.norm(), name


def test_they_read_and_write_nothing_beside_their_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, vocab_size=65, n_embd=50)
    for dtype in (torch.float32, torch.bfloat16):
        alone = outcome(config, dtype, fused=True)
        with monkeypatch.context() as patch:
            patch.setattr(fused_rest, "kernels", lambda dtype: Surrounded(kernels(dtype)))
            surrounded = outcome(config, dtype, fused=True)
        for name, tensor in surrounded.items():
            assert torch.equal(tensor, alone[name]), name


def test_threads_change_no_row_of_the_embedding() -> None:
    weight, ids = torch.randn(7, 20), torch.randint(7, (4, 50))
    gradient = torch.randn(4, 50, 20)
    before, gradients = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 9):
            torch.set_num_threads(threads)
            own = weight.clone().requires_grad_()
            read_rows(own, ids).backward(gradient)
            gradients.append(own.grad)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(other, gradients[0]) for other in gradients)


def test_logits_far_apart_have_finite_losses() -> None:
    logits = torch.tensor([[0.0, 200.0, -300.0]])
    losses = torch.empty(3)
    own = logits.repeat(3, 1)
    kernels(torch.float32).cross_entropy(3, 3, own, torch.arange(3), losses)
    torch.testing.assert_close(losses, torch.tensor([200.0, 0.0, 500.0]))
    torch.testing.assert_close(own, torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, -1.0]]))


def test_a_value_that_is_not_finite_stays_so() -> None:
    model = model_of(CONFIG)
    with torch.no_grad():
        model.head.weight[3, 0] = float("nan")
    ids = torch.arange(40)[None]
    loss = model.loss_sum(ids, ids)
    loss.backward()
    assert loss.isnan()
    assert model.head.weight.grad.isnan().any()


def test_blocks_that_are_not_fused_leave_the_rest_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_rest, "kernels", lambda dtype: pytest.fail("computed by kernels of its own"))
    ids = torch.arange(40)[None]
    model_of(CONFIG, "explicit").loss_sum(ids, ids).backward()
    evaluated: GPT = model_of(CONFIG).eval()
    evaluated.loss_sum(ids, ids)
