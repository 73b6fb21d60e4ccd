"""What a taught model minimizes is the formula of distillation, with its gradients, and never holds all logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quillgpt.device import autocast
from quillgpt.model import GPT, loss
from quillgpt.model.distillation import Teachers
from tiny import QWEN3

CPU = torch.device("cpu")
ROWS = 40
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-2}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into parts of 7 tokens, 10 rows of the weight, and 2 rows of logits."""
    monkeypatch.setattr(loss, "TOKENS_AT_ONCE", 7)
    monkeypatch.setattr(loss, "WEIGHT_ROWS_AT_ONCE", 10)
    monkeypatch.setattr(loss, "LOGITS_IN_CACHE", 2 * ROWS)


def model(seed: int, rows: int = ROWS, dtype: torch.dtype = torch.float32, **changes: object) -> GPT:
    shape = {"n_layer": 1, "block_size": 8, "vocab_size": rows, "tied": True}
    own = GPT(replace(QWEN3, **(shape | changes)), seed=seed).to(dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        own.head.weight.mul_(20)  # probabilities that are far from even
    return own


def formula(student: GPT, teachers: Teachers, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return objective and loss by their definitions, all logits at once."""
    with torch.no_grad():
        each = [teacher.logits(teacher(tokens))[..., :ROWS].softmax(-1) for teacher in teachers.models]
        padded = [torch.nn.functional.pad(own, (0, ROWS - own.shape[-1])) for own in each]
        taught = torch.stack(padded).mean(0)
    log_probabilities = student.logits(student(tokens)).log_softmax(-1)
    loss = -log_probabilities.gather(-1, targets[..., None]).sum()
    return (1 - teachers.share) * loss - teachers.share * (taught * log_probabilities).sum(), loss


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("rows_of_teachers", [(ROWS,), (ROWS, ROWS - 8), (ROWS + 8, ROWS)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_values_and_gradients_are_those_of_the_formula(
    dtype: torch.dtype, rows_of_teachers: tuple[int, ...], share: float
) -> None:
    rounded = dtype == torch.bfloat16
    own = torch.float32 if rounded else dtype
    student = model(1, dtype=own)
    models = tuple(model(2 + i, rows, own, n_embd=24) for i, rows in enumerate(rows_of_teachers))
    teachers = Teachers(models, share)
    tokens, targets = torch.randint(ROWS - 8, (2, 3, 8), generator=torch.Generator().manual_seed(1))
    wanted, wanted_loss = formula(student, teachers, tokens, targets)
    gradients = torch.autograd.grad(wanted / 3, list(student.parameters()))
    with autocast(CPU, torch.bfloat16 if rounded else torch.float32):
        objective, said = teachers.loss_sums(student, tokens, targets, None)
    (objective / 3).backward()
    assert not said.requires_grad
    assert float(said) == pytest.approx(float(wanted_loss.detach()), rel=TOLERANCES[dtype])
    assert float(objective.detach()) == pytest.approx(float(wanted.detach()), rel=TOLERANCES[dtype])
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert float((parameter.grad - gradient).norm() / gradient.norm()) < TOLERANCES[dtype]
    assert all(parameter.grad is None for teacher in models for parameter in teacher.parameters())


def test_a_student_that_knows_what_its_teacher_knows_has_nothing_to_learn() -> None:
    student = model(1, dtype=torch.float64)
    tokens, targets = torch.randint(ROWS, (2, 3, 8), generator=torch.Generator().manual_seed(1))
    objective, _ = Teachers((model(1, dtype=torch.float64),), 1.0).loss_sums(student, tokens, targets, None)
    gradients = torch.autograd.grad(objective, list(student.parameters()))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12


def test_the_operations_of_teachers_are_those_of_their_forward_passes() -> None:
    one, other = model(1), model(2, n_layer=3)
    parts = [Teachers((each,), 0.5).flops_per_token() for each in (one, other)]
    assert Teachers((one, other), 0.5).flops_per_token() == sum(parts)
    width = QWEN3.n_head * QWEN3.head_dim
    assert parts[0] == pytest.approx(2 * one.parameter_count() + 4 * width * one.config.block_size)
