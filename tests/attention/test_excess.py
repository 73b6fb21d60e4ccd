"""The penalty on arguments below a limit."""

import math

import pytest
import torch

from quillgpt.attention import excess_kernel, range_excess


def naive(query, key, limit):
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    x = -(query[:, :, :, None] - key[:, :, None]).square().sum(-1) / (2 * math.sqrt(query.shape[-1]))
    visible = torch.ones(x.shape[-2:], dtype=torch.bool).tril()
    excess = (-x - limit).clamp(min=0).square()[..., visible]  # (B, H, pairs)
    return excess.mean(-1).mean(-1).sum()


@pytest.mark.parametrize("limit", [0.5, 4.0, 1000.0])
def test_value_and_gradients_are_those_of_the_formula(limit):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 150, 6, dtype=torch.float64, generator=generator).mul(2).requires_grad_()
    key = torch.randn(3, 2, 150, 6, dtype=torch.float64, generator=generator).mul(2).requires_grad_()
    excess, truth = range_excess(query, key, excess_kernel(limit)), naive(query, key, limit)
    assert (float(truth) > 0) == (limit < 100)
    torch.testing.assert_close(excess, truth, rtol=1e-10, atol=1e-12)
    for own, expected in zip(
        torch.autograd.grad(excess, [query, key]), torch.autograd.grad(truth, [query, key]), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)
