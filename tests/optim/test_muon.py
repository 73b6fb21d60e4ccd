"""Muon against its formula in float64, and against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quillgpt.native import why_unavailable
from quillgpt.optim.muon import Muon, orthogonalize

needs_compiler = pytest.mark.skipif(why_unavailable(torch.bfloat16) is not None, reason="there is no C++ compiler")
SHAPES = ((48, 48), (130, 48), (20, 300), (7, 3), (96, 64))


@pytest.mark.parametrize("size", [(3, 24, 24), (2, 16, 40), (2, 40, 16)])
def test_singular_values_come_near_one_and_directions_stay(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(size)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    ours = orthogonalize(matrices).float()
    values = torch.linalg.svdvals(ours)
    assert float(values.max()) < 1.3
    assert float(values.min()) > 0.1  # the smallest ones would need more than five iterations
    along = (u * ours.matmul(v.mT)).sum(-2)  # the values of ours on the singular directions of the input
    assert torch.allclose(along.sort().values, values.sort().values, atol=0.05)


def test_it_is_torchs_muon_for_a_plain_matrix() -> None:
    torch.manual_seed(0)
    start = [torch.randn(12, 20), torch.randn(30, 10)]
    mine, theirs = ([torch.nn.Parameter(each.clone()) for each in start] for _ in range(2))
    ours = Muon(mine, lr=0.02, weight_decay=0.1)
    torchs = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95)
    for _ in range(4):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        torchs.step()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # bfloat16, by other products


def test_maps_in_one_matrix_are_orthogonalized_one_by_one() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(8, 12), torch.randn(4, 12), torch.randn(4, 12)]
    whole = torch.nn.Parameter(torch.cat(parts))
    alone = [torch.nn.Parameter(each.clone()) for each in parts]
    gradient = torch.randn(16, 12)
    whole.grad = gradient
    for part, own in zip(alone, gradient.split([8, 4, 4]), strict=True):
        part.grad = own.clone()
    Muon([whole], lr=0.1, weight_decay=0.1, fused_maps={whole: [8, 4, 4]}).step()
    Muon(alone, lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(whole.detach(), torch.cat([each.detach() for each in alone]), atol=1e-4, rtol=0)


def test_a_gradient_of_zero_moves_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))


def test_cautious_decay_shrinks_only_weights_that_the_update_shrinks_too() -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(12, 20), torch.randn(12, 20)

    def after(*, weight_decay: float, cautious: bool = False) -> torch.Tensor:
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        Muon([weight], lr=0.1, weight_decay=weight_decay, cautious=cautious).step()
        return weight.detach()

    free, decayed, cautious = after(weight_decay=0), after(weight_decay=0.5), after(weight_decay=0.5, cautious=True)
    toward_zero = (free - start) * start < 0
    assert 60 < int(toward_zero.sum()) < 180
    torch.testing.assert_close(free - decayed, start * 0.05)
    torch.testing.assert_close(cautious, torch.where(toward_zero, decayed, free))


def test_rows_are_divided_by_the_root_of_their_mean_squares() -> None:
    torch.manual_seed(0)
    heights, usual, stretch = (20, 4), (1 / 20, 1 / 12), ((20 / 12) ** 0.5, 1.0)
    weight = torch.nn.Parameter(torch.randn(24, 12))
    plain, evened = (
        Muon([weight], lr=1.0, weight_decay=0.0, beta2=beta2, fused_maps={weight: list(heights)}) for beta2 in (0, 0.9)
    )
    squares = [torch.ones(height, 1) for height in heights]
    for _ in range(3):
        start, gradient = weight.detach().clone(), torch.randn(24, 12) * torch.linspace(0.01, 1, 24)[:, None]
        steps = []
        for optimizer in (plain, evened):
            weight.data.copy_(start)
            weight.grad = gradient.clone()
            optimizer.step()
            steps.append((start - weight.detach()).split(heights))
        for part, (step, actual) in enumerate(zip(*steps, strict=True)):
            direction = step / stretch[part]
            squares[part] = 0.9 * squares[part] + 0.1 * direction.square().mean(1, keepdim=True) / usual[part]
            torch.testing.assert_close(actual, step / squares[part].sqrt(), atol=1e-4, rtol=1e-2)


def test_a_row_without_a_gradient_stays_where_rows_are_evened() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    muon = Muon([weight], lr=0.1, weight_decay=0.0, beta2=0.1)
    for _ in range(60):
        weight.grad = torch.zeros(4, 4)
        muon.step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))


def after_three_steps(
    *, native: bool, cautious: bool = False, beta2: float = 0.0, dtype: torch.dtype = torch.bfloat16
) -> list[Tensor]:
    """Return weights of several shapes, the last of three maps, and their momenta."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    maps = {weights[-1]: [32, 40, 24]}
    muon = Muon(
        weights,
        lr=0.1,
        weight_decay=0.1,
        beta2=beta2,
        fused_maps=maps,
        cautious=cautious,
        dtype=dtype,
        native=native,
    )
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        muon.step()
    kept = [value for weight in weights for value in muon.state[weight].values()]
    return [weight.detach() for weight in weights] + kept


@needs_compiler
@pytest.mark.parametrize("beta2", [0.0, 0.9])
@pytest.mark.parametrize("cautious", [False, True])
def test_the_kernel_computes_what_muon_does(cautious: bool, beta2: float) -> None:
    plain, native = (after_three_steps(native=native, cautious=cautious, beta2=beta2) for native in (False, True))
    torch.manual_seed(0)
    for shape, one, other in zip(SHAPES, plain, native, strict=False):
        assert (other - one).norm() < (0.08 if cautious else 0.04) * (one - torch.randn(shape)).norm()
    for one, other in zip(plain[len(SHAPES) :], native[len(SHAPES) :], strict=True):
        assert (other - one).norm() < (0.02 if beta2 and one.shape[1] == 1 else 1e-5) * one.norm()


@needs_compiler
@pytest.mark.parametrize("beta2", [0.0, 0.9])
def test_the_kernel_in_float32_differs_by_rounding_alone(beta2: float) -> None:
    plain, native = (after_three_steps(native=native, beta2=beta2, dtype=torch.float32) for native in (False, True))
    for one, other in zip(plain, native, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)


def test_float32_is_nearer_to_the_formula_than_bfloat16() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 40, 24)
    exact = orthogonalize(matrices, torch.float64)
    half, single = (
        float((orthogonalize(matrices, dtype) - exact).norm() / exact.norm())
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert single < 1e-4 < half < 0.1


@needs_compiler
@pytest.mark.parametrize("shape", [(64, 64), (130, 48), (48, 130)])
def test_the_kernel_is_at_least_as_near_to_the_formula(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(shape)
    x = gradient.double() if shape[0] <= shape[1] else gradient.double().T
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    exact = (x if shape[0] <= shape[1] else x.T).float()
    errors = []
    for native in (False, True):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = gradient.clone()
        Muon([weight], lr=1.0, weight_decay=0.0, native=native).step()
        errors.append(float((weight.detach() / max(1, shape[0] / shape[1]) ** 0.5 + exact).norm() / exact.norm()))
    assert errors[1] < min(0.05, 1.2 * errors[0])


@needs_compiler
def test_threads_change_nothing_in_the_kernel() -> None:
    before, outcomes = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outcomes.append(after_three_steps(native=True))
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        assert all(torch.equal(one, own) for one, own in zip(outcomes[0], other, strict=True))


@needs_compiler
def test_a_gradient_of_zero_moves_nothing_in_the_kernel() -> None:
    weight = torch.nn.Parameter(torch.ones(40, 4))
    weight.grad = torch.zeros(40, 4)
    Muon([weight], lr=0.1, weight_decay=0.0, native=True).step()
    assert torch.equal(weight.detach(), torch.ones(40, 4))
