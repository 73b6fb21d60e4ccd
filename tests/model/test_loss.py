"""The loss in parts is that of all tokens at once, with the same gradients, and never holds all logits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quillgpt.device import autocast
from quillgpt.model import GPT, GPTConfig, loss
from quillgpt.model.loss import is_in_parts, linear_cross_entropy_sum, token_losses

CPU = torch.device("cpu")
VOCABULARY, WIDTH = 83, 24
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2e-2}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into parts of 7 tokens, 10 rows of the weight, and 2 rows of logits."""
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 7)
    monkeypatch.setattr(loss, "WEIGHT_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(loss, "LOGITS_IN_CACHE", 2 * VOCABULARY)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum")


def inputs_of(dtype: torch.dtype, tokens: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, tokens // 2, WIDTH, generator=draw, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (2, tokens // 2), generator=draw)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def outcome(
    function: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor], *, in_bfloat16: bool = False
) -> list[Tensor]:
    """Return the loss of some inputs, and a multiple of its gradients."""
    hidden, weight, targets = inputs
    with autocast(CPU, torch.bfloat16) if in_bfloat16 else nullcontext():
        total = function(hidden, weight, targets)
    return [total.detach(), *torch.autograd.grad(total / 3, (hidden, weight))]


def assert_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for own, truth in zip(actual, wanted, strict=True):
        assert own.shape == truth.shape
        assert float((own - truth).norm() / truth.norm()) < tolerance


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("tokens", [2, 14, 40])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_values_and_gradients_are_those_of_the_formula(dtype: torch.dtype, tokens: int) -> None:
    rounded = dtype == torch.bfloat16
    inputs = inputs_of(torch.float32 if rounded else dtype, tokens)
    actual = outcome(linear_cross_entropy_sum, inputs, in_bfloat16=rounded)
    assert not any(each.requires_grad for each in actual)
    assert actual[0].dtype == actual[1].dtype == actual[2].dtype == inputs[0].dtype
    assert_near(actual, outcome(plain, inputs, in_bfloat16=rounded), TOLERANCES[dtype])


@pytest.mark.usefixtures("small_parts")
def test_rounding_is_no_larger_than_that_of_all_tokens_at_once() -> None:
    exact = outcome(plain, inputs_of(torch.float64))
    inputs = inputs_of(torch.float32)
    whole, parts = (outcome(each, inputs, in_bfloat16=True) for each in (plain, linear_cross_entropy_sum))
    for own, other, truth in zip(parts, whole, exact, strict=True):
        assert (own - truth).norm() < 1.2 * (other - truth).norm() + 1e-6


@pytest.mark.usefixtures("small_parts")
def test_each_thread_has_rows_of_its_own_and_the_result_is_that_of_one() -> None:
    draw = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(11, VOCABULARY, generator=draw), torch.randint(VOCABULARY, (11,), generator=draw)
    outcomes, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            gradient = logits.clone()
            outcomes.append((loss._losses(gradient, targets, torch.float32, leave_gradient=True), gradient))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for own, gradient in outcomes[1:]:
        assert torch.equal(own, outcomes[0][0])
        assert torch.equal(gradient, outcomes[0][1])


@pytest.mark.usefixtures("small_parts")
def test_extreme_logits_stay_finite() -> None:
    hidden, weight, targets = inputs_of(torch.float32)
    inputs = ((hidden * 1e3).detach().requires_grad_(), weight, targets)
    assert_near(outcome(linear_cross_entropy_sum, inputs), outcome(plain, inputs), 1e-5)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_has_no_gradient_and_none_is_computed(frozen: int) -> None:
    inputs = inputs_of(torch.float32)
    (wanted,) = torch.autograd.grad(plain(*inputs), inputs[1 - frozen])
    inputs[frozen].requires_grad_(False)
    linear_cross_entropy_sum(*inputs).backward()
    assert inputs[frozen].grad is None
    torch.testing.assert_close(inputs[1 - frozen].grad, wanted, atol=1e-4, rtol=1e-5)
    hidden, weight, targets = (each.detach() for each in inputs)
    _, *gradients = loss._loss_and_gradients(
        hidden.flatten(0, 1), weight, targets.flatten(), torch.float32, frozen != 0, frozen != 1
    )
    assert gradients[frozen].numel() == 0


@pytest.mark.usefixtures("small_parts")
def test_without_a_gradient_none_is_computed_or_kept() -> None:
    inputs = inputs_of(torch.float32)
    with torch.no_grad():
        total = linear_cross_entropy_sum(*inputs)
    assert not total.requires_grad
    torch.testing.assert_close(total, plain(*inputs).detach())


@pytest.mark.usefixtures("small_parts")
def test_a_second_backward_pass_is_an_error_and_not_another_gradient() -> None:
    total = linear_cross_entropy_sum(*inputs_of(torch.float32))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.usefixtures("small_parts")
def test_the_losses_of_tokens_are_those_of_the_formula() -> None:
    hidden, weight, targets = inputs_of(torch.float32)
    losses = token_losses(lambda states: F.linear(states, weight), hidden, targets)
    assert losses.shape == targets.shape
    truth = F.cross_entropy(F.linear(hidden, weight).mT, targets, reduction="none")
    torch.testing.assert_close(losses, truth.detach())
    assert not losses.requires_grad


def model_of(*, tied: bool = True, **changes: Any) -> GPT:
    sizes = {"block_size": 32, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 24, "head_dim": 12, "mlp_dim": 48}
    return GPT(GPTConfig(arch="gpt2", vocab_size=VOCABULARY, tied=tied, **sizes, **changes))


def gradients_of(model: GPT, *, in_bfloat16: bool = False) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    tokens = torch.randint(VOCABULARY, (3, 32), generator=torch.Generator().manual_seed(2))
    with autocast(CPU, torch.bfloat16 if in_bfloat16 else torch.float32):
        total = model.loss_sum(tokens, tokens.flip(0)) / tokens.numel()
    total.backward()
    gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    return {"loss": total.detach(), **gradients}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("in_bfloat16", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_model_has_the_same_gradients(
    tied: bool, in_bfloat16: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(tied=tied)
    whole = gradients_of(model, in_bfloat16=in_bfloat16)
    monkeypatch.setattr(loss, "MANY_LOGITS", 3 * 32 * VOCABULARY)
    if compiled:
        torch.compiler.reset()
        model.loss_from_hidden = torch.compile(model.loss_from_hidden, backend="aot_eager")  # type: ignore[method-assign]
    calls = []
    monkeypatch.setattr(loss, "_losses", lambda *given, **named: calls.append(1) or losses(*given, **named))
    parts = gradients_of(model, in_bfloat16=in_bfloat16)
    assert len(calls) == -(-3 * 32 // 7)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        assert float((parts[name] - gradient).norm() / gradient.norm()) < (0.02 if in_bfloat16 else 1e-5), name


losses = loss._losses


def largest_allocation(work: Callable[[], object]) -> int:
    """Return the bytes of the largest tensor that is made while some work is done."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    return max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


@pytest.mark.parametrize("trains", [True, False])
def test_the_largest_tensor_is_that_of_a_part_however_many_tokens_there_are(
    trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 64)
    draw = torch.Generator().manual_seed(1)
    weight = torch.nn.Parameter(torch.randn(2000, 8, generator=draw))
    of_part = 64 * 2000 * 4

    def work(tokens: int, function: Callable[..., Tensor]) -> Callable[[], object]:
        hidden = torch.randn(1, tokens, 8, generator=draw).requires_grad_(trains)
        targets = torch.randint(2000, (1, tokens), generator=draw)
        if not trains:
            return lambda: token_losses(lambda states: F.linear(states, weight), hidden, targets)
        return lambda: function(hidden, weight, targets).backward()

    if trains:
        assert largest_allocation(work(512, plain)) >= 8 * of_part
    for tokens in (64, 512, 2048):
        assert largest_allocation(work(tokens, linear_cross_entropy_sum)) == of_part


def test_small_vocabularies_other_devices_and_float16_are_left_as_they_are() -> None:
    assert is_in_parts(4096, 50_304, device_type="cpu", dtype=torch.bfloat16)
    assert is_in_parts(4096, 50_304, device_type="cpu", dtype=torch.float32)
    assert not is_in_parts(4096, 50_304, device_type="cpu", dtype=torch.float16)
    assert not is_in_parts(4096, 50_304, device_type="cuda", dtype=torch.bfloat16)
    assert not is_in_parts(4096, 4096, device_type="cpu", dtype=torch.bfloat16)
    assert not is_in_parts(16, 50_304, device_type="cpu", dtype=torch.bfloat16)
