"""Pointwise attention in memory that grows with the length of the text, not with its square.

y_i = sum_{j <= i} phi(u_ij) v_j is computed for one piece of queries at a time. The backward pass computes the weights
of a piece again. With g_i the gradient of y_i and W_ij = phi'(u_ij) (g_i . v_j), the gradients are dV = phi^T g,
dQ = W K / sqrt(D) and dK = W^T Q / sqrt(D); for the squared distance, rowsum(W) Q / sqrt(D) is subtracted from dQ and
colsum(W) K / sqrt(D) from dK.

Shapes: N batch times heads, T query position, S key position, D head width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.attention.dropout import draw_factors, seeded_factors, spread
from quillgpt.attention.masks import causal_mask
from quillgpt.attention.pointwise import pointwise
from quillgpt.attention.spec import KernelSpec, read_spec

QUERIES_AT_ONCE = 128
WEIGHTS_AT_ONCE = 1 << 19
"""Weights of a piece: a few megabytes, which fit a processor's cache."""


@dataclass(frozen=True)
class Piece:
    """Some queries of some heads, and the number of keys that the last of them sees.

    Attributes:
        number: Its number.
        heads: Its heads, of the N.
        queries: Its queries, of the T.
        visible: Number of keys up to that of its last query.
    """

    number: int
    heads: slice
    queries: slice
    visible: int


def pieces(heads: int, query_length: int, key_length: int) -> Iterator[Piece]:
    """Yield the pieces of attention: a pure function of the sizes, so that both passes cut alike.

    The last queries come first: they see the most keys, and the memory that their weights leave serves all others.
    """
    number = 0
    for first in reversed(range(0, query_length, QUERIES_AT_ONCE)):
        last = min(first + QUERIES_AT_ONCE, query_length)
        visible = key_length - query_length + last
        at_once = max(1, WEIGHTS_AT_ONCE // ((last - first) * visible))
        for head in range(0, heads, at_once):
            yield Piece(number, slice(head, head + at_once), slice(first, last), visible)
            number += 1


def weighted_sums(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spec: KernelSpec,
    *,
    dropout: float = 0.0,
    seeds: Tensor | None = None,
    operation: Operation | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the values for each query, and the sum of its weights.

    Args:
        query: (B, H, T, D); the queries are the last T of the S positions.
        key: (B, H, S, D).
        value: (B, H, S, D).
        spec: The kernel; its weights are not normalised here.
        dropout: Probability of dropping a weight from the sum over values.
        seeds: Int64 (B,): which weights of a sequence are dropped depends on its seed alone. None: PyTorch's generator
            draws a seed for all of them.
        operation: The implementation; None: plain PyTorch.

    Returns:
        Sums over values, (B, H, T, D), and sums of weights, (B, H, T), both in float32 or float64. The latter have
        size 0 unless the kernel is normalised. For a softmax, only the ratio of the two has a meaning.
    """
    if not dropout:
        seeds = torch.empty(0, dtype=torch.int64)
    elif seeds is None:
        seeds = draw_seed(torch.empty(0))
    with unrounded(query):
        sums, totals = (operation or piecewise_sums)(
            query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), seeds, spec.written, dropout
        )
    batch = query.shape[:2]
    return sums.view(*batch, *sums.shape[1:]), totals.view(*batch, -1) if spec.normalized else totals


def unrounded(like: Tensor) -> AbstractContextManager[object]:
    """Disable autocast on the device of a tensor: it would compute products of float32 in bfloat16.

    A polynomial of degree 256 of an argument that was rounded so is only noise.
    """
    return torch.autocast(like.device.type, enabled=False)


@torch.library.custom_op("quill::attention_seed", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def draw_seed(apart: Tensor) -> Tensor:  # noqa: ARG001
    """Draw a seed, int64 (); every call gives a new tensor `apart`, or a compiler would merge equal calls."""
    return torch.randint(1 << 62, ())


@draw_seed.register_fake
def _(apart: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty((), dtype=torch.int64)


Operation = Callable[[Tensor, Tensor, Tensor, Tensor, str, float], tuple[Tensor, Tensor]]
"""From queries (N,T,D), keys (N,S,D), values (N,S,E), seeds, `KernelSpec.written` and a dropout probability to sums
over values (N,T,E) and, if the kernel is normalised, sums of weights (N,T). Seeds are int64: one for each sequence,
(B,), or a single one, (), with which the dropout of a head depends on all N."""


def define_operation(
    name: str, forward: Operation, backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
) -> Operation:
    """Register an operation that autograd differentiates and that a compiler takes as a single step.

    Compiled code for a loop over pieces would depend on the length of the text.

    Args:
        name: Name of the operation.
        forward: Computes it.
        backward: Given the gradients of both results, then the arguments of `forward`, returns the gradients of
            queries, keys and values.
    """
    library = {"mutates_args": ()}
    operation = torch.library.custom_op(f"quill::{name}", forward, **library)  # type: ignore[call-overload]
    gradients = torch.library.custom_op(f"quill::{name}_backward", backward, **library)  # type: ignore[call-overload]

    @operation.register_fake  # type: ignore[untyped-decorator]
    def _(query: Tensor, key: Tensor, value: Tensor, seeds: Tensor, spec: str, dropout: float) -> tuple[Tensor, Tensor]:  # noqa: ARG001
        exact = query.dtype if query.dtype == torch.float64 else torch.float32
        return (
            value.new_empty(*query.shape[:2], value.shape[-1], dtype=exact),
            query.new_empty(query.shape[:2] if read_spec(spec).normalized else (0,), dtype=exact),
        )

    @gradients.register_fake  # type: ignore[untyped-decorator]
    def _(
        sums_gradient: Tensor,  # noqa: ARG001
        totals_gradient: Tensor,  # noqa: ARG001
        query: Tensor,
        key: Tensor,
        value: Tensor,
        seeds: Tensor,  # noqa: ARG001
        spec: str,  # noqa: ARG001
        dropout: float,  # noqa: ARG001
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)

    def keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG001
        *tensors, ctx.spec, ctx.dropout = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx, sums_gradient, totals_gradient):  # type: ignore[no-untyped-def]
        query, key, value, seeds = ctx.saved_tensors
        with unrounded(query):
            own = gradients(sums_gradient, totals_gradient, query, key, value, seeds, ctx.spec, ctx.dropout)
        return *own, None, None, None

    operation.register_autograd(differentiate, setup_context=keep)
    return operation  # type: ignore[no-any-return]


def _sums_of_pieces(
    query: Tensor, key: Tensor, value: Tensor, seeds: Tensor, spec: str, dropout: float
) -> tuple[Tensor, Tensor]:
    kernel = read_spec(spec)
    rows = Rows(query, key, kernel)
    weighed = value.to(rows.query.dtype)
    sums = weighed.new_empty(*query.shape[:2], value.shape[-1])
    totals = rows.query.new_empty(query.shape[:2] if kernel.normalized else (0,))
    if dropout:
        seeds = seeds_of_heads(seeds, len(query))
    for piece in rows.pieces():
        weights = hide_future(rows.weight.value(rows.argument(piece)))
        if kernel.normalized:
            totals[piece.heads, piece.queries] = weights.sum(-1)
        if dropout:
            weights.mul_(_factors(weights, seeds, piece, dropout))
        sums[piece.heads, piece.queries] = weights @ weighed[piece.heads, : piece.visible]
    return sums, totals


def _gradients_of_pieces(
    sums_gradient: Tensor,
    totals_gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seeds: Tensor,
    spec: str,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    kernel = read_spec(spec)
    rows = Rows(query, key, kernel)
    exact = rows.query.dtype
    values, gradients = value.to(exact), sums_gradient.to(exact)
    query_gradient = torch.empty_like(query)
    key_sums, value_gradient = torch.zeros_like(rows.key), torch.zeros_like(values)
    if dropout:
        seeds = seeds_of_heads(seeds, len(query))
    for piece in rows.pieces():
        argument = rows.argument(piece)
        weights = rows.weight.value(argument)
        mine, seen = (piece.heads, piece.queries), (piece.heads, slice(piece.visible))
        change = gradients[mine] @ values[seen].mT
        if dropout:
            factors = _factors(weights, seeds, piece, dropout)
            change.mul_(factors)
        if kernel.normalized:
            change.add_(totals_gradient[mine].unsqueeze(-1))
        change = hide_future(change.mul_(rows.weight.slope(argument, weights)))
        if dropout:
            weights = weights.mul_(factors)
        value_gradient[seen] += hide_future(weights).mT @ gradients[mine]
        query_gradient[mine] = rows.query_gradient(change, piece).to(query.dtype)
        key_sums[seen] += change.mT @ rows.query[mine]
    return query_gradient, rows.key_gradient(key_sums).to(key.dtype), value_gradient.to(value.dtype)


piecewise_sums = define_operation("weighted_sums", _sums_of_pieces, _gradients_of_pieces)
"""The operation in plain PyTorch."""


class Rows:
    """Queries and keys in a layout in which one product gives the arguments of the weights, in float32 at least.

    For the distance, -|q-k|^2/2 = q.k - |q|^2/2 - |k|^2/2 is the product of (q, 1, -|q|^2/2) and (k, -|k|^2/2, 1).
    The squares are those of the given numbers, rounded or not, so that the distance of equal query and key is 0.

    Args:
        query: (N, T, D).
        key: (N, S, D).
        spec: The kernel.
    """

    def __init__(self, query: Tensor, key: Tensor, spec: KernelSpec) -> None:
        exact = query.dtype if query.dtype == torch.float64 else torch.float32
        self.weight = pointwise(spec)
        self._of_distance, self._is_softmax, self._width = spec.of_distance, spec.is_softmax, query.shape[-1]
        self._scale = 1 / math.sqrt(self._width)
        query, key = query.to(exact), key.to(exact)
        if self._of_distance:
            ones = query.new_ones(1)
            query = torch.cat([query, ones.expand(*query.shape[:-1], 1), _half_square(query).neg_()], -1)
            key = torch.cat([key, _half_square(key).neg_(), ones.expand(*key.shape[:-1], 1)], -1)
        self.query, self.key = query * self._scale, key

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces."""
        return pieces(len(self.query), self.query.shape[1], self.key.shape[1])

    def argument(self, piece: Piece, seen: Tensor | None = None) -> Tensor:
        """Return the argument of the weights, (heads, queries, visible).

        If the weights are a softmax, a query's greatest argument is made 0: if all keys were far, exp would be 0 for
        all of them. This multiplies sums and weights by one factor, so their ratio and its gradients stay.

        Args:
            piece: Which queries and keys.
            seen: Bool, the keys that each query sees; None: those up to its own.
        """
        argument = self.query[piece.heads, piece.queries] @ self.key[piece.heads, : piece.visible].mT
        if self._of_distance:
            argument.clamp_(max=0)
        if self._is_softmax:
            seen = causal_mask(argument.shape[-2], argument.shape[-1], argument.device) if seen is None else seen
            argument.masked_fill_(~seen, -math.inf).sub_(argument.amax(-1, keepdim=True))
        return argument

    def query_gradient(self, change: Tensor, piece: Piece) -> Tensor:
        """Return the gradient of a piece's queries, given that of its arguments."""
        gradient = change @ self.key[piece.heads, : piece.visible]
        if not self._of_distance:
            return gradient * self._scale
        own = self.query[piece.heads, piece.queries, : self._width]  # times the scale already
        return gradient[..., : self._width] * self._scale - gradient[..., -1:] * own

    def key_gradient(self, products: Tensor) -> Tensor:
        """Return the gradient of the keys, given the sum of all pieces' products."""
        if not self._of_distance:
            return products
        width = self._width
        return products[..., :width] - products[..., width : width + 1] * self.key[..., :width]


def hide_future(weights: Tensor) -> Tensor:
    """Set the weights of keys after their query to 0, in place; the queries are the last of the keys.

    They are not multiplied by 0, because such a weight may be infinite.
    """
    weights[..., -weights.shape[-2] :].tril_()
    return weights


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True).mul_(0.5)


def seeds_of_heads(seeds: Tensor, heads: int) -> Tensor:
    """Return a seed for each head of each sequence, (N,), given the seeds of an operation; a single seed stays one."""
    return seeds if seeds.ndim == 0 else spread(seeds, heads // len(seeds)).T.flatten()


def _factors(weights: Tensor, seeds: Tensor, piece: Piece, dropout: float) -> Tensor:
    """Return the dropout factors of a piece's weights; they are the same in both passes."""
    if seeds.ndim == 0:
        generator = torch.Generator(weights.device).manual_seed(int(seeds) + piece.number)
        return draw_factors(weights, dropout, generator=generator)
    return seeded_factors(seeds[piece.heads] + piece.queries.start, weights.shape, weights.dtype, dropout)
