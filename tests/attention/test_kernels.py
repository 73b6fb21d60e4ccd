import pytest
import torch

from quillgpt.attention import KERNELS
from quillgpt.attention.reference import softmax_attention
from quillgpt.attention.softmax import causal_mask
from tolerances import BFLOAT16_FROBENIUS, FLOAT32, FLOAT64

PATHS = [(name, path) for name, kernel in KERNELS.items() for path in kernel.paths]

# (query positions, key positions, heads, key and value heads)
CASES = {
    "training": (9, 9, 4, 4),
    "grouped heads": (9, 9, 6, 2),
    "one position": (1, 1, 2, 2),
    "decoding with a cache": (1, 7, 4, 2),
    "prefilling on top of a cache": (3, 8, 4, 4),
    "prefilling, grouped heads": (3, 8, 4, 1),
}


def inputs(case, dtype=torch.float64):
    T, S, H, G = CASES[case]
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, H, T, 8), (2, G, S, 8), (2, G, S, 8))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def value_and_gradients(attend, tensors):
    result = attend(*tensors)
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return result, *torch.autograd.grad(result, tensors, weights.to(result.dtype))


def truth(kernel, tensors):
    """The reference on as many key and value heads as query heads; autograd adds a group's gradients up."""

    def attend(query, key, value):
        groups = query.shape[1] // key.shape[1]
        return KERNELS[kernel].reference(query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1))

    return value_and_gradients(attend, tensors)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel", "path"), PATHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
def test_path_equals_the_reference_in_value_and_gradients(kernel, path, case, dtype, tolerance):
    fast = value_and_gradients(lambda q, k, v: KERNELS[kernel].paths[path](q, k, v, 0.0), inputs(case, dtype))
    for found, expected in zip(fast, truth(kernel, inputs(case)), strict=True):
        torch.testing.assert_close(found.double(), expected, **tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_path_is_near_the_reference_in_bfloat16(kernel, path, case):
    tensors = inputs(case, torch.bfloat16)
    fast = value_and_gradients(lambda q, k, v: KERNELS[kernel].paths[path](q, k, v, 0.0), tensors)
    exact = truth(kernel, [tensor.detach().double().requires_grad_() for tensor in tensors])
    scale = max(expected.norm() for expected in exact)
    for found, expected in zip(fast, exact, strict=True):
        # with one key the weight is 1 whatever query and key are, so their gradients are 0
        norm = expected.norm() if expected.norm() > 1e-6 * scale else scale
        assert (found.double() - expected).norm() / norm <= BFLOAT16_FROBENIUS


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_no_path_looks_ahead(kernel, path):
    query, key, value = (tensor.detach() for tensor in inputs("training"))
    before = KERNELS[kernel].paths[path](query, key, value, 0.0)
    key[:, :, 5:] += 1
    value[:, :, 5:] -= 1
    after = KERNELS[kernel].paths[path](query, key, value, 0.0)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.isclose(before[:, :, 5:], after[:, :, 5:]).all(dim=-1).any()


def test_reference_averages_the_visible_values_where_all_scores_are_equal():
    value = torch.arange(4.0, dtype=torch.float64).view(1, 1, 4, 1)
    flat = torch.zeros(1, 1, 4, 1, dtype=torch.float64)
    assert softmax_attention(flat, flat, value).flatten().tolist() == [0, 0.5, 1, 1.5]


def test_queries_are_the_last_positions_of_the_keys():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_path_drops_attention_weights_at_the_given_rate(kernel, path):
    torch.manual_seed(0)
    flat, value = torch.zeros(64, 2, 1, 8), torch.eye(8).expand(64, 2, 8, 8)
    kept = KERNELS[kernel].paths[path](flat, torch.zeros(64, 2, 8, 8), value, 0.25) * 8  # one weight per column
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 4 / 3), rtol=1e-4, atol=0)
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
