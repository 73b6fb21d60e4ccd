"""The recomputing kernels in Triton, for GPUs, with the mathematics of quillgpt.attention.recompute.

A program takes one block of queries through all keys that they see, or in the backward pass one block of keys through
all queries that see them. Products are in the inputs' number format with sums in float32; arguments and weights are
float32.

Shapes: N batch times heads, T query position, S key position, D head width.
"""

# ruff: noqa: N803
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from quillgpt.attention.pointwise import chebyshev_coefficients
from quillgpt.attention.recompute import define_operation, piecewise_sums, seeds_of_heads
from quillgpt.attention.spec import KernelSpec, read_spec
from quillgpt.attention.triton_weights import FORMS, slope, weight

WIDEST = 256
"""Widest head whose block of queries a GPU's registers hold."""

BLOCK_QUERIES, BLOCK_KEYS = 64, 64

Arguments = tuple[tuple[object, ...], dict[str, object]]
"""Positional and named."""


@triton.jit
def _rows(X, head, rows, length, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Load rows of a head, (rows, BLOCK), zeros beyond the length and the width."""
    columns = tl.arange(0, BLOCK)
    mask = (rows[:, None] < length) & (columns[None, :] < WIDTH)
    return tl.load(X + (head * length + rows[:, None]) * WIDTH + columns[None, :], mask=mask, other=0.0)


@triton.jit
def _store(X, block, head, rows, length, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, BLOCK)
    mask = (rows[:, None] < length) & (columns[None, :] < WIDTH)
    place = X + (head * length + rows[:, None]) * WIDTH + columns[None, :]
    tl.store(place, block.to(X.dtype.element_ty), mask=mask)


@triton.jit
def _argument(q, k, scale, OF_DISTANCE: tl.constexpr):
    """Return the argument of the weights, (queries, keys), float32."""
    argument = tl.dot(q, tl.trans(k), input_precision="ieee")
    if OF_DISTANCE:
        wide_q, wide_k = q.to(tl.float32), k.to(tl.float32)
        halves = 0.5 * (tl.sum(wide_q * wide_q, 1)[:, None] + tl.sum(wide_k * wide_k, 1)[None, :])
        argument = tl.minimum(argument - halves, 0.0)
    return argument * scale


@triton.jit
def _factors(seeds, head, rows, keys, T, S, dropout, PER_HEAD: tl.constexpr):
    """Return the dropout factors of the weights: a pure function of query and key, so the same in all passes.

    `seeds` points to one for each head, or is a single one for all.
    """
    if PER_HEAD:
        drawn = tl.rand(tl.load(seeds + head), rows[:, None] * S + keys[None, :])
    else:
        drawn = tl.rand(seeds, (head * T + rows[:, None]) * S + keys[None, :])
    return tl.where(drawn >= dropout, 1 / (1 - dropout), 0.0)


@triton.jit
def _forward_kernel(
    Q, K, V, SUMS, TOTALS, COEFFICIENTS, seeds, T, S, scale, bias, reach, dropout,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    M: tl.constexpr, KEYS: tl.constexpr, FORM: tl.constexpr, n: tl.constexpr,
    OF_DISTANCE: tl.constexpr, TOTAL: tl.constexpr, DROPOUT: tl.constexpr, PER_HEAD: tl.constexpr,
):  # fmt: skip
    first, head = tl.program_id(0) * M, tl.program_id(1)
    rows = first + tl.arange(0, M)
    q = _rows(Q, head, rows, T, D, BLOCK_D)
    sums = tl.zeros((M, BLOCK_E), tl.float32)
    totals = tl.zeros((M,), tl.float32)
    for start in range(0, tl.minimum(first + M, T) + S - T, KEYS):
        keys = start + tl.arange(0, KEYS)
        k = _rows(K, head, keys, S, D, BLOCK_D)
        v = _rows(V, head, keys, S, E, BLOCK_E)
        visible = (rows[:, None] + S - T >= keys[None, :]) & (keys[None, :] < S)
        phi = weight(_argument(q, k, scale, OF_DISTANCE), COEFFICIENTS, bias, reach, FORM, n)
        phi = tl.where(visible, phi, 0.0)
        if TOTAL:
            totals += tl.sum(phi, 1)
        if DROPOUT:
            phi = phi * _factors(seeds, head, rows, keys, T, S, dropout, PER_HEAD)
        sums += tl.dot(phi.to(v.dtype), v, input_precision="ieee")
    _store(SUMS, sums, head, rows, T, E, BLOCK_E)
    if TOTAL:
        tl.store(TOTALS + head * T + rows, totals, mask=rows < T)


@triton.jit
def _weights_and_changes(
    q, k, v, gradient, TOTALS_GRADIENT, COEFFICIENTS, seeds, head, rows, keys, T, S, scale, bias, reach, dropout,
    FORM: tl.constexpr, n: tl.constexpr,
    OF_DISTANCE: tl.constexpr, TOTAL: tl.constexpr, DROPOUT: tl.constexpr, PER_HEAD: tl.constexpr,
):  # fmt: skip
    """Return the weights after dropout, and the gradients of their arguments, both (queries, keys)."""
    visible = (rows[:, None] + S - T >= keys[None, :]) & (keys[None, :] < S) & (rows[:, None] < T)
    u = _argument(q, k, scale, OF_DISTANCE)
    phi = tl.where(visible, weight(u, COEFFICIENTS, bias, reach, FORM, n), 0.0)
    change = tl.dot(gradient.to(v.dtype), tl.trans(v), input_precision="ieee")
    applied = phi
    if DROPOUT:
        factors = _factors(seeds, head, rows, keys, T, S, dropout, PER_HEAD)
        change = change * factors
        applied = phi * factors
    if TOTAL:
        change += tl.load(TOTALS_GRADIENT + head * T + rows, mask=rows < T, other=0.0)[:, None]
    return applied, tl.where(visible, change * slope(u, phi, COEFFICIENTS, bias, reach, FORM, n), 0.0)


@triton.jit
def _query_kernel(
    Q, K, V, SUMS_GRADIENT, TOTALS_GRADIENT, QUERY_GRADIENT, COEFFICIENTS, seeds, T, S, scale, bias, reach, dropout,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    M: tl.constexpr, KEYS: tl.constexpr, FORM: tl.constexpr, n: tl.constexpr,
    OF_DISTANCE: tl.constexpr, TOTAL: tl.constexpr, DROPOUT: tl.constexpr, PER_HEAD: tl.constexpr,
):  # fmt: skip
    first, head = tl.program_id(0) * M, tl.program_id(1)
    rows = first + tl.arange(0, M)
    q = _rows(Q, head, rows, T, D, BLOCK_D)
    gradient = _rows(SUMS_GRADIENT, head, rows, T, E, BLOCK_E)
    query_gradient = tl.zeros((M, BLOCK_D), tl.float32)
    row_sums = tl.zeros((M,), tl.float32)
    for start in range(0, tl.minimum(first + M, T) + S - T, KEYS):
        keys = start + tl.arange(0, KEYS)
        k = _rows(K, head, keys, S, D, BLOCK_D)
        v = _rows(V, head, keys, S, E, BLOCK_E)
        _, change = _weights_and_changes(
            q, k, v, gradient, TOTALS_GRADIENT, COEFFICIENTS,
            seeds, head, rows, keys, T, S, scale, bias, reach, dropout,
            FORM, n, OF_DISTANCE, TOTAL, DROPOUT, PER_HEAD,
        )  # fmt: skip
        row_sums += tl.sum(change, 1)
        query_gradient += tl.dot(change.to(k.dtype), k, input_precision="ieee")
    if OF_DISTANCE:
        query_gradient -= row_sums[:, None] * q.to(tl.float32)
    _store(QUERY_GRADIENT, query_gradient * scale, head, rows, T, D, BLOCK_D)


@triton.jit
def _key_kernel(
    Q, K, V, SUMS_GRADIENT, TOTALS_GRADIENT, KEY_GRADIENT, VALUE_GRADIENT, COEFFICIENTS,
    seeds, T, S, scale, bias, reach, dropout,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    M: tl.constexpr, KEYS: tl.constexpr, FORM: tl.constexpr, n: tl.constexpr,
    OF_DISTANCE: tl.constexpr, TOTAL: tl.constexpr, DROPOUT: tl.constexpr, PER_HEAD: tl.constexpr,
):  # fmt: skip
    first, head = tl.program_id(0) * KEYS, tl.program_id(1)
    keys = first + tl.arange(0, KEYS)
    k = _rows(K, head, keys, S, D, BLOCK_D)
    v = _rows(V, head, keys, S, E, BLOCK_E)
    key_gradient = tl.zeros((KEYS, BLOCK_D), tl.float32)
    value_gradient = tl.zeros((KEYS, BLOCK_E), tl.float32)
    column_sums = tl.zeros((KEYS,), tl.float32)
    for start in range(tl.maximum(first - (S - T), 0) // M * M, T, M):
        rows = start + tl.arange(0, M)
        q = _rows(Q, head, rows, T, D, BLOCK_D)
        gradient = _rows(SUMS_GRADIENT, head, rows, T, E, BLOCK_E)
        weights, change = _weights_and_changes(
            q, k, v, gradient, TOTALS_GRADIENT, COEFFICIENTS,
            seeds, head, rows, keys, T, S, scale, bias, reach, dropout,
            FORM, n, OF_DISTANCE, TOTAL, DROPOUT, PER_HEAD,
        )  # fmt: skip
        value_gradient += tl.dot(tl.trans(weights).to(v.dtype), gradient.to(v.dtype), input_precision="ieee")
        key_gradient += tl.dot(tl.trans(change).to(q.dtype), q, input_precision="ieee")
        column_sums += tl.sum(change, 0)
    if OF_DISTANCE:
        key_gradient -= column_sums[:, None] * k.to(tl.float32)
    _store(KEY_GRADIENT, key_gradient * scale, head, keys, S, D, BLOCK_D)
    _store(VALUE_GRADIENT, value_gradient, head, keys, S, E, BLOCK_E)


@lru_cache
def _coefficients(degree: int, reach: float, device: torch.device) -> Tensor:
    """Return the coefficients of the series, then those of its derivative."""
    own = chebyshev_coefficients(degree, reach)
    derived = np.polynomial.Chebyshev(own).deriv().coef
    return torch.tensor([*own, *map(float, derived)], dtype=torch.float32, device=device)


def has_kernel(kernel: KernelSpec) -> bool:
    """Whether Triton's kernels can compute this one.

    They see the keys piece by piece, so a query's greatest argument, which a softmax needs, is known only at the end.
    """
    return not kernel.is_softmax and _form(kernel) in FORMS


def _form(kernel: KernelSpec) -> str:
    """Return the weight function's name in `FORMS`."""
    family = kernel.type.family
    return kernel.type.activation if family == "PA" else kernel.poly_form if family == "GKpoly" else "exp"


def _launch(query: Tensor, key: Tensor, value: Tensor, seeds: Tensor, kernel: KernelSpec, dropout: float) -> Arguments:
    """Return the arguments that all kernels of one call share."""
    width, value_width = query.shape[-1], value.shape[-1]
    form = _form(kernel)
    degree = kernel.type.n
    table = _coefficients(degree, kernel.poly_range, query.device) if form == "chebyshev" else query
    bias = kernel.attn_bias if kernel.type.family == "PA" else 0.0
    per_head = dropout > 0 and seeds.ndim == 1
    given = seeds_of_heads(seeds, len(query)) if per_head else int(seeds) % (1 << 31) if dropout else 0
    sizes = (given, query.shape[1], key.shape[1], width**-0.5, bias, kernel.poly_range, dropout)
    return (
        (table, *sizes),
        {
            "D": width,
            "E": value_width,
            "BLOCK_D": max(16, triton.next_power_of_2(width)),
            "BLOCK_E": max(16, triton.next_power_of_2(value_width)),
            "M": BLOCK_QUERIES,
            "KEYS": BLOCK_KEYS,
            "FORM": form,
            "n": degree,
            "OF_DISTANCE": kernel.of_distance,
            "TOTAL": kernel.normalized,
            "DROPOUT": dropout > 0,
            "PER_HEAD": per_head,
        },
    )


def _forward(
    query: Tensor, key: Tensor, value: Tensor, seeds: Tensor, spec: str, dropout: float
) -> tuple[Tensor, Tensor]:
    kernel = read_spec(spec)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    sums = value.new_empty(*query.shape[:2], value.shape[-1], dtype=torch.float32)
    totals = query.new_empty(query.shape[:2] if kernel.normalized else (0,), dtype=torch.float32)
    positional, named = _launch(query, key, value, seeds, kernel, dropout)
    grid = (triton.cdiv(query.shape[1], BLOCK_QUERIES), len(query))
    _forward_kernel[grid](query, key, value, sums, totals, *positional, **named)
    return sums, totals


def _backward(
    sums_gradient: Tensor,
    totals_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seeds: Tensor,
    spec: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    given = (sums_gradient.contiguous(), totals_gradient.contiguous())
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    positional, named = _launch(query, key, value, seeds, read_spec(spec), dropout)
    inputs = (query, key, value, *given)
    by_query = (triton.cdiv(query.shape[1], BLOCK_QUERIES), len(query))
    by_key = (triton.cdiv(key.shape[1], BLOCK_KEYS), len(query))
    _query_kernel[by_query](*inputs, gradients[0], *positional, **named)
    _key_kernel[by_key](*inputs, gradients[1], gradients[2], *positional, **named)
    return gradients


_operation = define_operation("triton_weighted_sums", _forward, _backward)
_INTERPRETED = bool(triton.knobs.runtime.interpret)


def triton_weighted_sums(
    query: Tensor, key: Tensor, value: Tensor, seeds: Tensor, spec: str, dropout: float
) -> tuple[Tensor, Tensor]:
    """Compute `piecewise_sums`, and call it for what these kernels cannot do: CPUs, float64 and wide heads."""
    here = query.is_cuda or _INTERPRETED
    fits = here and query.dtype != torch.float64 and max(query.shape[-1], value.shape[-1]) <= WIDEST
    return (_operation if fits else piecewise_sums)(query, key, value, seeds, spec, dropout)
