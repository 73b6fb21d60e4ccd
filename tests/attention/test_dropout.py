import pytest
import torch

from quillgpt.attention import dropout
from quillgpt.attention.dropout import LEVELS

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
