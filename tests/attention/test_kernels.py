from dataclasses import replace

import pytest
import torch

from quillgpt.activations import ACTIVATIONS
from quillgpt.attention import KernelSpec, causal_mask, recompute, spread
from quillgpt.attention.recompute import pieces
from quillgpt.attention.reference import reference_attention, reference_weights
from quillgpt.model import attention_paths
from tolerances import BFLOAT16_FROBENIUS, FLOAT32, FLOAT64

BLOCK = 32
SPECS = {
    "SM": KernelSpec(),
    "GK": KernelSpec("GK"),
    "GK row_norm": KernelSpec("GK", row_norm=True),
    "GKn": KernelSpec("GKn"),
    **{f"GKpoly-{n}": KernelSpec(f"GKpoly-{n}") for n in (1, 2, 4, 8, 14)},
    "GKpoly-4 row_norm": KernelSpec("GKpoly-4", row_norm=True),
    "limit": KernelSpec("GKpoly-5", poly_form="limit"),
    "taylor": KernelSpec("GKpoly-6", poly_form="taylor"),
    "chebyshev": KernelSpec("GKpoly-8", poly_form="chebyshev"),
    "squared-taylor": KernelSpec("GKpoly-5", poly_form="squared-taylor"),
    **{f"PA_{name}": KernelSpec(f"PA_{name}") for name in ACTIVATIONS},
    "pos": KernelSpec("PA_gelu", len_scale="pos", len_alpha=0.5),
    "none": KernelSpec("PA_relu", len_scale="none"),
    "seq": KernelSpec("PA_sigmoid", len_scale="seq"),
    "bias": KernelSpec("PA_sigmoid", attn_bias=-2.0),
    "PA_square row_norm": KernelSpec("PA_square", row_norm=True),
    "PA_exp row_norm": KernelSpec("PA_exp", row_norm=True),
}
PATHS = [(name, path) for name, spec in SPECS.items() for path in attention_paths(spec, block_size=BLOCK)]

# (query positions, key positions, heads, key and value heads)
CASES = {
    "training": (9, 9, 4, 4),
    "several pieces": (300, 300, 1, 1),
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


def by(kernel, path):
    return lambda q, k, v: attention_paths(SPECS[kernel], block_size=BLOCK)[path](q, k, v, 0.0)


def truth(kernel, tensors):
    """The reference on as many key and value heads as query heads; autograd adds a group's gradients up."""

    def attend(query, key, value):
        groups = query.shape[1] // key.shape[1]
        grown = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        return reference_attention(query, *grown, SPECS[kernel], block_size=BLOCK)

    return value_and_gradients(attend, tensors)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel", "path"), PATHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
def test_path_equals_the_reference_in_value_and_gradients(kernel, path, case, dtype, tolerance):
    fast = value_and_gradients(by(kernel, path), inputs(case, dtype))
    spec = SPECS[kernel]
    for actual, expected in zip(fast, truth(kernel, inputs(case)), strict=True):
        if spec.type.family == "GKpoly":  # rounding of x, times the polynomial's degree
            scale = max(1.0, expected.detach().abs().max().item())
            rounding = (spec.degree or 0) * torch.finfo(dtype).eps
            tolerance = tolerance | {"atol": max(tolerance["atol"], 2 * rounding) * scale}
        torch.testing.assert_close(actual.double(), expected, **tolerance)


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_gradients_are_those_of_finite_differences(kernel, path):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 1, 8, 4, generator=generator).double().requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(by(kernel, path), tensors, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["GK", "GKn", "PA_gelu", "PA_square row_norm"])
def test_heads_that_do_not_fit_in_memory_at_once_are_taken_in_turn(kernel):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 60, 150, 4, generator=generator).double().requires_grad_() for _ in range(3)]
    assert len({piece.heads.start for piece in pieces(60, 150, 150)}) > 1
    actual = value_and_gradients(by(kernel, "recompute"), tensors)
    for one, other in zip(actual, truth(kernel, tensors), strict=True):
        torch.testing.assert_close(one, other, **FLOAT64)


@pytest.mark.parametrize(("kernel", "path"), [each for each in PATHS if SPECS[each[0]].is_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_far_keys_a_softmax_takes_the_nearest(kernel, path, dtype):
    query, key, value = (tensor.detach() for tensor in inputs("decoding with a cache", dtype))
    key, query = -40 - key, 40 + query  # every argument is below -1,000, and exp of it 0
    attend = by(kernel, path)
    for visible in (None, torch.arange(7)[None] < 5):
        seen = 7 if visible is None else 5
        tensors = [query, key[:, :, :seen], value[:, :, :seen]]
        expected = truth(kernel, [each.double().requires_grad_() for each in tensors])[0]
        paths = attention_paths(SPECS[kernel], block_size=BLOCK)
        tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
        torch.testing.assert_close(paths[path](query, key, value, 0.0, visible).double(), expected, **tolerance)
    one = torch.full((1, 1, 1, 8), 40.0, dtype=dtype)
    torch.testing.assert_close(attend(one, -one, one), one)


@pytest.mark.parametrize("kernel", [name for name, spec in SPECS.items() if spec.of_distance and not spec.normalized])
def test_rounding_puts_no_distance_below_zero(kernel):
    common = 300 + torch.randn(1, 1, 40, 16, generator=torch.Generator().manual_seed(0))
    weights = by(kernel, "recompute")(common, common, torch.eye(40)[None, None])
    assert weights.diagonal(dim1=-2, dim2=-1).max() <= 1 + 1e-6  # where x is above 0, exp is above 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_path_is_near_the_reference_in_bfloat16(kernel, path, case):
    tensors = inputs(case, torch.bfloat16)
    fast = value_and_gradients(by(kernel, path), tensors)
    exact = truth(kernel, [tensor.detach().double().requires_grad_() for tensor in tensors])
    scale = max(expected.norm() for expected in exact)
    for actual, expected in zip(fast, exact, strict=True):
        # with one key the weight is 1 whatever query and key are, so their gradients are 0
        norm = expected.norm() if expected.norm() > 1e-6 * scale else scale
        assert (actual.double() - expected).norm() / norm <= BFLOAT16_FROBENIUS


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kernel", "path"), [each for each in PATHS if each[0] != "SM"])
def test_autocast_does_not_round_the_arguments_of_weights(kernel, path, case):
    expected = value_and_gradients(by(kernel, path), inputs(case, torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = value_and_gradients(by(kernel, path), inputs(case, torch.bfloat16))
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_no_path_looks_ahead(kernel, path):
    query, key, value = (tensor.detach() for tensor in inputs("training"))
    before = by(kernel, path)(query, key, value)
    key[:, :, 5:] += 1
    value[:, :, 5:] -= 1
    after = by(kernel, path)(query, key, value)
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=1e-12, atol=1e-12)
    changed = ~torch.isclose(before[:, :, 5:], after[:, :, 5:]).all(dim=-1)
    assert changed.double().mean() > 0.8  # a query of relu's may see nothing at all


@pytest.mark.parametrize(("kernel", "path"), [each for each in PATHS if each[0] != "seq"])
def test_the_first_rows_of_a_text_are_those_of_its_beginning(kernel, path):
    """What is appended changes nothing before it, read at once or on top of what came before."""
    query, key, value = (tensor.detach() for tensor in inputs("training"))
    attend = by(kernel, path)
    whole = attend(query, key, value)
    torch.testing.assert_close(attend(query[:, :, :6], key[:, :, :6], value[:, :, :6]), whole[:, :, :6], **FLOAT64)
    for first, last in ((6, 9), (8, 9)):
        piece = attend(query[:, :, first:last], key[:, :, :last], value[:, :, :last])
        torch.testing.assert_close(piece, whole[:, :, first:last], **FLOAT64)


def test_the_length_of_the_text_at_hand_changes_what_came_before():
    query, key, value = (tensor.detach() for tensor in inputs("training"))
    attend = by("seq", "recompute")
    short, whole = attend(query[:, :, :3], key[:, :, :3], value[:, :, :3]), attend(query, key, value)
    torch.testing.assert_close(short / 3, whole[:, :, :3], **FLOAT64)


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_a_key_that_is_not_filled_yet_is_hidden(kernel, path):
    query, key, value = (tensor.detach() for tensor in inputs("decoding with a cache"))
    attend = attention_paths(replace(SPECS[kernel], len_scale="pos"), block_size=BLOCK)[path]
    expected = attend(query, key[:, :, :5], value[:, :, :5], 0.0)
    visible = torch.arange(7)[None] < 5
    torch.testing.assert_close(attend(query, key, value, 0.0, visible), expected, **FLOAT64)


@pytest.mark.parametrize(("kernel", "path"), PATHS)
def test_huge_attention_scores_of_later_keys_do_no_harm(kernel, path):
    query, key, value = (tensor.detach() for tensor in inputs("training"))
    expected = by(kernel, path)(query, key, value)
    key = key.clone()
    key[:, :, 8] *= 1e4
    value = value.clone().requires_grad_()
    actual = by(kernel, path)(query, key, value)[:, :, :8]
    torch.testing.assert_close(actual, expected[:, :, :8], rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(actual.sum(), value)
    assert gradient[:, :, :8].isfinite().all()


def test_reference_averages_the_visible_values_where_all_attention_scores_are_equal():
    value = torch.arange(4.0, dtype=torch.float64).view(1, 1, 4, 1)
    flat = torch.zeros(1, 1, 4, 1, dtype=torch.float64)
    assert reference_attention(flat, flat, value, KernelSpec(), block_size=4).flatten().tolist() == [0, 0.5, 1, 1.5]


def test_queries_are_the_last_positions_of_the_keys():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]


DROPPING = [
    (name, path)
    for name, spec in SPECS.items()
    for path in attention_paths(spec, block_size=BLOCK, dropout=True)
    if spec.degree is None  # the weight of a zero score is not 0
]


@pytest.mark.parametrize(("kernel", "path"), DROPPING)
def test_path_drops_attention_weights_at_the_given_rate(kernel, path):
    torch.manual_seed(0)
    attend = attention_paths(SPECS[kernel], block_size=BLOCK, dropout=True)[path]
    flat, value = torch.zeros(64, 2, 1, 8), torch.eye(8).expand(64, 2, 8, 8)
    whole = attend(flat, torch.zeros(64, 2, 8, 8), value, 0.0)
    if not whole.all():
        pytest.skip("a score of zero has no weight")
    kept = attend(flat, torch.zeros(64, 2, 8, 8), value, 0.25) / whole  # one weight per column
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 4 / 3), rtol=1e-4, atol=0)
    assert (kept == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_every_piece_and_every_call_drops_other_weights():
    H, T = 64, 128
    [one, other] = [piece.heads.start for piece in pieces(H, T, T)]  # two pieces of one size
    flat, units = torch.zeros(1, H, T, 8), torch.eye(T).expand(1, H, T, T)
    attend = attention_paths(SPECS["GK"], block_size=BLOCK, dropout=True)["recompute"]
    torch.manual_seed(0)
    first, second = (attend(flat, flat, units, 0.5)[0] > 0 for _ in range(2))
    pairs = torch.ones(T, T, dtype=torch.bool).tril()
    for mine, theirs in ((first[one], second[one]), (first[one], first[other])):
        assert (mine == theirs)[pairs].double().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kernel", [name for name, spec in SPECS.items() if spec.type.family != "SM"])
def test_dropped_weights_are_the_same_in_the_backward_pass(kernel):
    """The weights kept are read off with unit values; with them the reference gives the same gradients."""
    T, spec = 20, SPECS[kernel]
    torch.manual_seed(3)
    query, key, value = (torch.randn(1, 2, T, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    attend = attention_paths(spec, block_size=BLOCK, dropout=True)["recompute"]
    units = torch.eye(T, dtype=torch.float64).expand(1, 2, T, T)
    whole = reference_weights(query, key, spec, block_size=BLOCK).detach()
    with torch.random.fork_rng():
        kept = attend(query, key, units, 0.4).detach()
    factors = torch.where(whole == 0, 0, kept / whole)
    assert 0.3 < (factors[whole != 0] == 0).double().mean() < 0.5
    actual = value_and_gradients(lambda q, k, v: attend(q, k, v, 0.4), (query, key, value))
    expected = value_and_gradients(
        lambda q, k, v: reference_attention(q, k, v, spec, block_size=BLOCK, factors=factors), (query, key, value)
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


SEEDED_PATHS = [("SM", "explicit"), ("SM", "sdpa"), ("GKn", "augmented"), ("GK", "recompute"), ("PA_gelu", "recompute")]


@pytest.mark.parametrize(("kernel", "path"), SEEDED_PATHS)
@pytest.mark.parametrize("length", [20, 140], ids=["one piece", "several pieces"])
def test_with_seeds_the_dropout_of_a_sequence_does_not_depend_on_those_beside_it(kernel, path, length, monkeypatch):
    """Nor on how its weights are cut into pieces: here a piece holds heads of several sequences."""
    monkeypatch.setattr(recompute, "WEIGHTS_AT_ONCE", 5 * 20 * 20)
    attend = attention_paths(SPECS[kernel], block_size=length, dropout=True)[path]
    generator, seeds = torch.Generator().manual_seed(0), spread(torch.tensor(0), 4)
    shapes = ((4, 6, length, 8), (4, 2, length, 8), (4, 2, length, 8))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    whole = attend(*tensors, 0.4, None, seeds)
    gradients = torch.autograd.grad(whole.square().sum(), tensors)
    for rows in (slice(0, 1), slice(1, 4)):
        own = [tensor[rows].detach().requires_grad_() for tensor in tensors]
        alone = attend(*own, 0.4, None, seeds[rows])
        torch.testing.assert_close(alone, whole[rows], **FLOAT64)
        for one, other in zip(torch.autograd.grad(alone.square().sum(), own), gradients, strict=True):
            torch.testing.assert_close(one, other[rows], **FLOAT64)
    assert not torch.equal(whole, attend(*tensors, 0.4, None, seeds + 1))


@pytest.mark.parametrize(("kernel", "path"), SEEDED_PATHS)
def test_with_seeds_every_sequence_head_and_query_drops_other_weights(kernel, path):
    T = 140
    attend = attention_paths(SPECS[kernel], block_size=T, dropout=True)[path]
    flat, units = torch.full((3, 2, T, 8), 0.1), torch.eye(T).expand(3, 2, T, T)
    kept = attend(flat, flat, units, 0.5, None, spread(torch.tensor(0), 3)) > 0
    patterns = kept[:, :, -T // 2 :, : T // 2].flatten(0, 2)  # all see these keys
    assert len(patterns.unique(dim=0)) == len(patterns)
    assert patterns.double().mean() == pytest.approx(0.5, abs=0.02)
    heads = kept[:, :, T // 2 :, : T // 2].reshape(6, -1).double()
    assert (torch.corrcoef(heads) - torch.eye(6)).abs().max() < 0.08


@pytest.mark.parametrize("kernel", ["GK", "GKn", "PA_softplus"])
def test_weights_dropped_by_seeds_are_the_same_in_the_backward_pass(kernel):
    T, spec, seeds = 20, SPECS[kernel], spread(torch.tensor(3), 2)
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(2, 2, T, 8, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3)]
    attend = attention_paths(spec, block_size=BLOCK, dropout=True)["recompute"]
    units = torch.eye(T, dtype=torch.float64).expand(2, 2, T, T)
    whole = reference_weights(*tensors[:2], spec, block_size=BLOCK).detach()
    factors = torch.where(whole == 0, 0, attend(*tensors[:2], units, 0.4, None, seeds).detach() / whole)
    actual = value_and_gradients(lambda q, k, v: attend(q, k, v, 0.4, None, seeds), tensors)
    expected = value_and_gradients(
        lambda q, k, v: reference_attention(q, k, v, spec, block_size=BLOCK, factors=factors), tensors
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)
