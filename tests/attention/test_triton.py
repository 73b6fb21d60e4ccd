"""The Triton kernels: run by Triton's interpreter on a CPU, or, where there is one, on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

CHECK = """
import sys
import torch
from quillgpt.attention import KernelSpec
from quillgpt.model import attention_paths
from quillgpt.model.kernels import triton_runs
from quillgpt.attention.reference import reference_attention
from quillgpt.activations import ACTIVATIONS
from quillgpt.attention.triton_weights import FORMS

device = sys.argv[1]
dtype = getattr(torch, sys.argv[2])
limit = float(sys.argv[3])
assert triton_runs()
specs = [
    *(KernelSpec(name) for name in ("GK", "GKpoly-1", "GKpoly-6")),
    *(KernelSpec("GKpoly-5", poly_form=form) for form in ("limit", "taylor", "chebyshev", "squared-taylor")),
    *(KernelSpec(f"PA_{name}") for name in ACTIVATIONS if name in FORMS),
    KernelSpec("PA_sigmoid", attn_bias=-1.5),
    KernelSpec("PA_gelu", len_scale="pos"),
    KernelSpec("PA_square", row_norm=True),
    KernelSpec("GKpoly-4", row_norm=True),
]
if device == "cuda" and dtype == torch.float32:
    specs = specs[::5]  # each takes ten seconds to compile, and bfloat16 tries all
worst = 0.0
for spec in specs:
    assert "triton" in attention_paths(spec, block_size=64)
    cases = [(70, 70, 2, 2)]  # more than a block
    if spec.attn_type in ("GK", "GKpoly-4", "PA_gelu"):
        cases += [(1, 1, 2, 2), (3, 67, 4, 2)]  # one position; after a cache, with grouped heads
    for T, S, H, G in cases:
        torch.manual_seed(T)
        inputs = [torch.randn(1, heads, n, 20).to(dtype) for heads, n in ((H, T), (G, S), (G, S))]
        own = [each.to(device).requires_grad_() for each in inputs]
        truth = [each.double().requires_grad_() for each in inputs]
        actual = attention_paths(spec, block_size=64)["triton"](*own, 0.0)
        grouped = [each.repeat_interleave(H // G, 1) for each in truth[1:]]
        expected = reference_attention(truth[0], *grouped, spec, block_size=64)
        upstream = torch.randn(expected.shape).to(dtype)
        pairs = zip(
            (actual, *torch.autograd.grad(actual, own, upstream.to(device))),
            (expected, *torch.autograd.grad(expected, truth, upstream.double())),
        )
        for mine, right in pairs:
            mine, right = mine.detach().cpu().double(), right.detach()
            error = float((mine - right).norm() / right.norm().clamp(min=1))
            assert error <= limit, (str(spec), T, error)
            worst = max(worst, error)
print(f"worst {worst:.1e}")
assert "triton" not in attention_paths(KernelSpec("GKn"), block_size=64)

common = 300 + torch.randn(1, 1, 40, 16, device=device)  # whose squares leave x above 0 by their rounding
ones = torch.eye(40, device=device)[None, None]
for name in ("GK", "GKpoly-8"):
    weights = attention_paths(KernelSpec(name), block_size=64)["triton"](common, common, ones, 0.0)
    assert weights.max() <= 1, name

for width, format in ((300, torch.float32), (16, torch.float64)):  # what the kernels leave to plain PyTorch
    inputs = [torch.randn(1, 2, 9, width).to(device, format) for _ in range(3)]
    paths = attention_paths(KernelSpec("GK"), block_size=64)
    assert torch.equal(paths["triton"](*inputs, 0.0), paths["recompute"](*inputs, 0.0))

spec = KernelSpec("GK")
path = attention_paths(spec, block_size=64, dropout=True)["triton"]
query, key = (torch.randn(1, 4, 96, 16, device=device) * 0.1 for _ in range(2))
value = torch.eye(96, device=device).expand(1, 4, 96, 96).contiguous()  # so that the result is the weights themselves
torch.manual_seed(5)
weights = path(query, key, value, 0.25)
torch.manual_seed(5)
assert torch.equal(path(query, key, value, 0.25), weights)
assert not torch.equal(path(query, key, value, 0.25), weights)
whole = path(query, key, value, 0.0)
kept = weights[whole > 0] != 0
assert abs(float(kept.float().mean()) - 0.75) < 0.02
torch.testing.assert_close(weights[whole > 0][kept], whole[whole > 0][kept] / 0.75, rtol=1e-5, atol=1e-6)
torch.manual_seed(5)
leaf = value.clone().requires_grad_()
path(query, key, leaf, 0.25).sum().backward()
torch.testing.assert_close(leaf.grad.sum(-1) / 96, weights.sum(-2), rtol=1e-4, atol=1e-5)  # the same are dropped

seeds = torch.arange(3, device=device) - (1 << 60)
several = [each.repeat(3, 1, 1, 1) for each in (query, key, value)]
weights = path(*several, 0.25, None, seeds)
for row in range(3):  # what is dropped of a sequence depends on its seed alone
    assert torch.equal(path(query, key, value, 0.25, None, seeds[row : row + 1])[0], weights[row])
heads = (weights > 0)[(whole > 0).expand_as(weights)].view(12, -1)
assert len(heads.unique(dim=0)) == 12
assert abs(float(heads.float().mean()) - 0.75) < 0.02
leaf = several[2].clone().requires_grad_()
path(*several[:2], leaf, 0.25, None, seeds).sum().backward()
torch.testing.assert_close(leaf.grad.sum(-1) / 96, weights.sum(-2), rtol=1e-4, atol=1e-5)
"""


def run(device: str, dtype: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # In a process of its own: whether kernels are interpreted is settled when they are defined.
    if device == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    command = [sys.executable, "-c", CHECK, device, dtype, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_interpreted_kernels_are_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    run("cpu", "float32", 1e-5, monkeypatch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_compiled_kernels_are_the_formulas(dtype: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    run("cuda", dtype, limit, monkeypatch)
