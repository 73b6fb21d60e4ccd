"""What the kernels are, as mathematics: polynomials near exp, identities, gradients, statistics at the start."""

import importlib.util
import math
from dataclasses import fields

import pytest
import torch

from quillgpt.activations import ACTIVATIONS, Activation
from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.attention.reference import reference_attention, reference_weights
from quillgpt.config.schema.attention import OPTIONS, USUAL, VALID, AttentionFields, parse_attn_type
from quillgpt.model import attention_paths
from tolerances import FLOAT64


def weight(attn_type, x, **options):
    return pointwise(KernelSpec(attn_type, **options)).value(x)


@pytest.mark.parametrize(("n", "scaled"), [(2, 0.2952), (3, 0.2824), (4, 0.2764), (6, 0.2721), (8, 0.2710)])
def test_power2_nears_exp_as_its_degree_grows(n, scaled):
    N = 2**n
    x = torch.linspace(-N, 0, 2_000_001, dtype=torch.float64)
    error = (weight(f"GKpoly-{n}", x) - x.exp()).abs().max().item()
    assert error * N == pytest.approx(scaled, abs=5e-5)
    assert weight(f"GKpoly-{n}", torch.tensor([-N, -2 * N], dtype=torch.float64)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("form", "n", "reach", "error"),
    [
        ("power2", 6, 16, 4.3e-3),
        ("power2", 4, 32, 1.0),
        ("limit", 8, 8, 3.5e-2),
        ("limit", 8, 16, 1.0),
        ("taylor", 8, 8, 2.0e2),
        ("taylor", 32 // 4, 16, 7e4),
        ("chebyshev", 8, 8, 1.1e-4),
        ("chebyshev", 8, 16, 4.4e-3),
        ("chebyshev", 8, 32, 5.2e-2),
        ("squared-taylor", 7, 128, 1.4e-5),
    ],
)
def test_largest_error_of_a_polynomial_on_a_range(form, n, reach, error):
    x = torch.linspace(-reach, 0, 200_001, dtype=torch.float64)
    actual = (weight(f"GKpoly-{n}", x, poly_form=form, poly_range=float(reach)) - x.exp()).abs().max().item()
    assert actual == pytest.approx(error, rel=0.25)


SPECS = [
    KernelSpec("GK"),
    *(KernelSpec(f"GKpoly-{n}") for n in (1, 2, 8, 14)),
    *(KernelSpec(f"GKpoly-{n}", poly_form=form) for n in (1, 4, 7) for form in ("limit", "taylor", "chebyshev")),
    *(KernelSpec(f"GKpoly-{n}", poly_form="squared-taylor") for n in (1, 6)),
    *(KernelSpec(f"PA_{name}") for name in ACTIVATIONS),
    KernelSpec("PA_gelu", attn_bias=0.5),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_slope_is_the_derivative(spec):
    u = torch.linspace(-9.03, -0.01 if spec.of_distance else 4.0, 101, dtype=torch.float64, requires_grad=True)
    kernel = pointwise(spec)
    before = u.detach().clone()
    value = kernel.value(u)
    (expected,) = torch.autograd.grad(value.sum(), u) if value.requires_grad else (None,)
    with torch.no_grad():
        actual = kernel.slope(u, kernel.value(u))
    assert torch.equal(u.detach(), before), "the argument was changed"
    torch.testing.assert_close(actual, expected, **FLOAT64)


def weights(query, key, attn_type):
    return reference_weights(query, key, KernelSpec(attn_type), block_size=8)


def test_gkn_is_softmax_of_products_less_half_the_keys_squares():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 8, 4, dtype=torch.float64) for _ in range(3))
    logits = (2 * query @ key.mT - key.square().sum(-1)[..., None, :]) / (2 * math.sqrt(4))
    hidden = ~torch.ones(8, 8, dtype=torch.bool).tril()
    expected = logits.masked_fill(hidden, -math.inf).softmax(-1) @ value
    for path in attention_paths(KernelSpec("GKn"), block_size=8).values():
        torch.testing.assert_close(path(query, key, value, 0.0), expected, **FLOAT64)


def test_gkn_is_softmax_where_all_keys_are_of_one_length():
    torch.manual_seed(0)
    query, key = torch.randn(1, 2, 8, 4, dtype=torch.float64), torch.randn(1, 2, 8, 4, dtype=torch.float64)
    key = 2 * key / key.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(weights(query, key, "GKn"), weights(query, key, "SM"), **FLOAT64)


@pytest.mark.parametrize("attn_type", ["GK", "GKn", "GKpoly-6"])
def test_a_gaussian_sees_differences_only(attn_type):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 8, 4, dtype=torch.float64) for _ in range(3))
    shift = 3 * torch.randn(4, dtype=torch.float64)
    for path in attention_paths(KernelSpec(attn_type), block_size=8).values():
        moved = path(query + shift, key + shift, value, 0.0)
        torch.testing.assert_close(moved, path(query, key, value, 0.0), rtol=1e-9, atol=1e-9)


def test_the_gaussian_of_a_text_with_itself_is_a_kernel():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 4, dtype=torch.float64)
    lower = weights(x, x, "GK")[0, 0]
    whole = lower + lower.tril(-1).T
    assert lower.diagonal().tolist() == [1] * 8
    assert torch.linalg.eigvalsh(whole).min() > 0


# GPT-2's start, width 768, 12 heads: entries of queries and keys N(0, 0.554^2).
@pytest.mark.parametrize(
    ("attn_type", "mean"),
    [
        ("PA_relu", 0.123),
        ("PA_gelu", 0.036),
        ("PA_sigmoid", 0.5),
        ("PA_square", 0.0945),
        ("PA_relu-square", 0.047),
        ("PA_exp", 1.05),
        ("GK", 0.094),
    ],
)
def test_the_mean_weight_at_gpt2s_start(attn_type, mean):
    generator = torch.Generator().manual_seed(0)
    query, key = 0.554 * torch.randn(2, 1, 40, 500, 64, generator=generator)
    spec = KernelSpec(attn_type, len_scale="none")
    last = query[..., -1:, :]  # of distances all at once are gigabytes
    actual = reference_weights(last, key, spec, block_size=500).mean().item() if spec.of_distance else None
    if actual is None:
        actual = reference_weights(query, key, spec, block_size=500)[0, :, 250:, :250].mean().item()
    assert actual == pytest.approx(mean, rel=0.05)


def test_one_head_of_768_hardly_attends_at_its_start():
    generator = torch.Generator().manual_seed(0)
    query, key = 0.554 * torch.randn(2, 1, 4, 300, 768, generator=generator)
    actual = reference_weights(query[:, :, 150:], key, KernelSpec("GK"), block_size=300)[0, :, :, :150]
    assert actual.log().mean().item() == pytest.approx(-8.5, rel=0.05)
    assert actual.mean().item() == pytest.approx(2.2e-4, rel=0.05)


def test_sums_of_the_gaussians_weights_grow_with_the_position():
    generator = torch.Generator().manual_seed(0)
    query, key = 0.554 * torch.randn(2, 1, 16, 1024, 64, generator=generator)
    ones = torch.ones(1, 16, 1024, 1)
    sums = attention_paths(KernelSpec("GK"), block_size=1024)["recompute"](query, key, ones, 0.0)[0, ..., 0]
    for position in (64, 256, 1024):
        assert sums[:, position - 32 : position].mean().item() == pytest.approx(0.0939 * (position - 15.5), rel=0.05)


@pytest.mark.parametrize("name", ["SM", "GK", "GKn", "GKpoly-1", "GKpoly-14", *(f"PA_{each}" for each in ACTIVATIONS)])
def test_a_name_is_understood(name):
    kind = parse_attn_type(name)
    assert {"SM": "SM", "GK": "GK", "GKn": "GKn"}.get(
        name, f"GKpoly-{kind.n}" if kind.n else f"PA_{kind.activation}"
    ) == name


NO_NAMES = (
    *("", "gk", "GKpoly", "GKpoly-", "GKpoly-x", "GKpoly-0", "GKpoly-15", "GKpoly-08", "GKpoly-8 ", "GKpoly-\u0661"),
    *("PA_", "PA", "PA_gelu_", "PA-gelu", "SM;", "PA_lambda s: s", "GKpoly-__import__('os')"),
)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_none_lists_those_that_are(name):
    with pytest.raises(
        ValueError, match="is no attention kernel; expected SM, GK, GKn, GKpoly-1 to GKpoly-14, PA_gelu"
    ) as e:
        parse_attn_type(name)
    assert VALID in str(e.value)


@pytest.mark.parametrize(
    ("spec", "degree", "depth"),
    [
        (KernelSpec("GKpoly-8"), 256, 11),
        (KernelSpec("GKpoly-8", poly_form="limit"), 8, 6),
        (KernelSpec("GKpoly-8", poly_form="taylor"), 8, 7),
        (KernelSpec("GKpoly-8", poly_form="chebyshev"), 8, 7),
        (KernelSpec("GKpoly-7", poly_form="squared-taylor"), 256, 11),
        (KernelSpec("PA_square"), 2, 4),
        (KernelSpec("PA_identity"), 1, 3),
        (KernelSpec("PA_gelu"), None, None),
        (KernelSpec("GK"), None, None),
        (KernelSpec("SM"), None, None),
        (KernelSpec("GKpoly-8", row_norm=True), 256, None),
    ],
    ids=str,
)
def test_degree_and_depth(spec, degree, depth):
    assert (spec.degree, spec.depth) == (degree, depth)


def test_a_kernels_options_are_those_that_the_settings_declare():
    assert [field.name for field in fields(KernelSpec)] == ["attn_type", *OPTIONS]
    assert all(getattr(KernelSpec(), name) == value for name, value in USUAL.items())


@pytest.mark.parametrize(
    "unknown", [{"attn_type": "GKpoly-4", "poly_form": "unheard"}, {"attn_type": "PA_relu", "len_scale": "unheard"}]
)
def test_the_reference_computes_nothing_that_it_does_not_know(unknown):
    query = torch.randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match="unheard"):
        reference_weights(query, query, KernelSpec(**unknown), block_size=8)


def test_an_activation_without_a_formula_is_no_other_activation(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "unheard", ACTIVATIONS["silu"])
    spec = KernelSpec("PA_unheard")
    monkeypatch.delitem(ACTIVATIONS, "unheard")
    query = torch.randn(1, 1, 4, 4)
    with pytest.raises(KeyError, match="unheard"):
        reference_weights(query, query, spec, block_size=8)


def test_one_entry_of_the_table_is_a_whole_kernel(monkeypatch):
    cube = Activation(lambda s: s**3, lambda s, _: 3 * s * s, formula=lambda s: s * s * s, signed=True)
    monkeypatch.setitem(ACTIVATIONS, "cube", cube)
    assert AttentionFields(attn_type="PA_cube").attn_type == "PA_cube"
    with pytest.raises(ValueError, match="can be negative"):
        AttentionFields(attn_type="PA_cube", row_norm=True)
    spec = KernelSpec("PA_cube", attn_bias=0.3)
    monkeypatch.setattr("quillgpt.model.kernels.triton_runs", lambda: importlib.util.find_spec("triton") is not None)
    paths = attention_paths(spec, block_size=8)
    assert list(paths) == ["recompute"]  # Triton has no such case
    tensors = [torch.randn(1, 2, 8, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    results = paths["recompute"](*tensors, 0.0), reference_attention(*tensors, spec, block_size=8)
    torch.testing.assert_close(*results)
    for own, expected in zip(*(torch.autograd.grad(result.square().sum(), tensors) for result in results), strict=True):
        torch.testing.assert_close(own, expected)
