import pytest
import torch

from quillgpt.attention import dropout, spread
from quillgpt.attention.dropout import LEVELS, generated_factors, hashed_factors

COUNT = 400_000


@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_each_of_the_four_numbers_in_a_word_drops_at_the_right_rate(probability):
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(COUNT), probability) == 0).view(-1, 4).double().mean(0)
    standard_error = (probability * (1 - probability) / (COUNT / 4)) ** 0.5
    assert (dropped - probability).abs().max() < 4 * standard_error


def test_the_four_numbers_in_a_word_are_independent():
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(COUNT), 0.5) == 0).view(-1, 4).double()
    correlations = torch.corrcoef(dropped.T) - torch.eye(4)
    assert correlations.abs().max() < 5 / (COUNT / 4) ** 0.5


def test_the_mean_stays():
    torch.manual_seed(0)
    assert dropout(torch.ones(COUNT), 0.2).mean().item() == pytest.approx(1, abs=0.004)


def test_what_stays_is_scaled_by_the_rounded_probability_exactly():
    torch.manual_seed(0)
    x = torch.randn(1001, dtype=torch.float64)
    result = dropout(x, 0.2)
    kept = result != 0
    assert torch.equal(result[kept], x[kept] * (LEVELS / (LEVELS - round(0.2 * LEVELS))))


def test_the_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.ones(5, 7, 3, requires_grad=True)
    result = dropout(x, 0.3)
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())


def test_the_seed_decides():
    def drop(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.5)

    assert torch.equal(drop(1), drop(1))
    assert not torch.equal(drop(1), drop(2))


def test_nothing_is_dropped_at_probability_0():
    x = torch.randn(10)
    assert dropout(x, 0.0) is x


def test_the_highest_probability_keeps_one_number_in_65536():
    torch.manual_seed(0)
    result = dropout(torch.ones(40 * LEVELS), 1 - 1e-9)
    assert set(result.unique().tolist()) == {0.0, LEVELS}
    assert 15 < result.count_nonzero() < 75  # 40 expected


def test_a_view_and_a_size_that_no_word_divides_are_dropped_from_as_they_lie():
    torch.manual_seed(0)
    x = torch.arange(1.0, 16.0).view(3, 5).T
    result = dropout(x, 0.5)
    kept = result != 0
    assert 0 < kept.sum() < 15
    assert torch.equal(result[kept], x[kept] * 2)


def test_compiled_it_draws_what_it_draws_uncompiled_and_anew_each_time():
    def twice(x):
        return dropout(x, 0.3), dropout(x, 0.3)

    x = torch.randn(64, 33, requires_grad=True)
    torch.manual_seed(0)
    expected = twice(x)
    torch.manual_seed(0)
    drawn = torch.compile(twice)(x)
    assert all(torch.equal(one, other) for one, other in zip(expected, drawn, strict=True))
    assert not torch.equal(*drawn)
    drawn[0].sum().backward()
    assert torch.equal(x.grad != 0, expected[0] != 0)


ROWS, ROW = 100, 4001  # no multiple of the four numbers in a word
SEEDED = pytest.mark.parametrize("draw", [generated_factors, hashed_factors])


def seeds_of(iteration=0, count=ROWS, first=0):
    return spread(torch.tensor(iteration), count, first=first)


@SEEDED
@pytest.mark.parametrize("probability", [0.1, 0.2, 0.5, 0.9])
def test_with_seeds_every_row_drops_at_the_right_rate(draw, probability):
    dropped = (draw(seeds_of(), (ROWS, ROW), torch.float32, probability) == 0).double()
    deviation = (probability * (1 - probability)) ** 0.5
    assert abs(dropped.mean() - probability) < 4 * deviation / (ROWS * ROW) ** 0.5
    assert (dropped.mean(1) - probability).abs().max() < 5 * deviation / ROW**0.5
    assert (dropped.mean(0) - probability).abs().max() < 6 * deviation / ROWS**0.5


@SEEDED
def test_rows_with_their_own_seeds_are_independent_and_so_are_neighbours_in_a_row(draw):
    dropped = (draw(seeds_of(), (ROWS, ROW), torch.float32, 0.5) == 0).double()
    assert (torch.corrcoef(dropped) - torch.eye(ROWS)).abs().max() < 6 / ROW**0.5
    shifted = torch.stack([dropped[:, i : ROW - 4 + i].flatten() for i in range(5)])
    assert (torch.corrcoef(shifted) - torch.eye(5)).abs().max() < 5 / (ROWS * ROW) ** 0.5


@SEEDED
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_row_depends_on_its_own_seed_alone(draw, dtype):
    shape, seeds = (7, 3, 5), seeds_of(count=7)
    whole = draw(seeds, shape, dtype, 0.3)
    assert whole.dtype == dtype
    assert whole.unique().tolist() == torch.tensor([0, LEVELS / (LEVELS - round(0.3 * LEVELS))], dtype=dtype).tolist()
    alone = torch.cat([draw(seeds[row : row + 1], (1, 3, 5), dtype, 0.3) for row in range(7)])
    assert torch.equal(alone, whole)
    assert torch.equal(draw(seeds.flip(0), shape, dtype, 0.3).flip(0), whole)


def test_seeds_are_told_by_number_and_all_differ():
    assert torch.equal(seeds_of(count=5, first=3), seeds_of(count=8)[3:])
    of_all = torch.stack([spread(seeds_of(iteration), 50) for iteration in range(50)])
    assert of_all.shape == (50, 50, ROWS)
    assert len(of_all.unique()) == of_all.numel()


def test_with_seeds_the_gradient_is_the_mask_and_pytorchs_generator_is_left_alone():
    x = torch.ones(5, 7, 3, requires_grad=True)
    before = torch.get_rng_state()
    result = dropout(x, 0.3, seeds_of(count=5))
    result.sum().backward()
    assert torch.equal(x.grad, result.detach())
    assert torch.equal(torch.get_rng_state(), before)
    assert dropout(x, 0.0, seeds_of(count=5)) is x


@SEEDED
def test_with_seeds_compiled_code_drops_the_same(draw):
    torch.compiler.reset()
    x, seeds = torch.randn(6, 35), seeds_of(count=6)

    def function(x, seeds):
        if draw is hashed_factors:
            return x * draw(seeds, x.shape, x.dtype, 0.3)
        return dropout(x, 0.3, seeds)

    assert torch.equal(torch.compile(function)(x, seeds), function(x, seeds))
