"""The range of each head's arguments over held-out text, and the polynomial that it needs.

To compute attention on encrypted numbers, one must know the range of its arguments in advance: a polynomial is close to
exp on a range, and far from it outside.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quillgpt.attention import KernelSpec, causal_mask
from quillgpt.lab.observe import arguments, observed, uses_distance
from quillgpt.lab.polynomials import Polynomial, shallowest, smallest_n, turning_points
from quillgpt.model import GPT
from quillgpt.tables import ResultTable

KEPT = 50_000
"""Arguments of a head that are kept for quantiles and the histogram; minimum, maximum and shares use all pairs."""

BINS = 60


@dataclass(frozen=True)
class HeadRange:
    """The arguments of one head.

    Attributes:
        layer: The layer, from 0.
        head: The head in the layer, from 0.
        minimum: The smallest argument of all pairs.
        maximum: The largest argument.
        quantiles: The quantiles at 0.1 %, 1 % and 50 % of the kept arguments.
        pairs: Number of pairs.
        below: Number of pairs below -N, where (1 + x/N)^N grows again; None if the kernel is no such polynomial.
        dangerous: Number of pairs below -2N + 12, where it is no longer near 0; None if the kernel is no such
            polynomial.
        of_distance: Whether the arguments are those of a Gaussian.
        kept: All arguments, or a uniform sample of about KEPT of them, float32.
    """

    layer: int
    head: int
    minimum: float
    maximum: float
    quantiles: tuple[float, float, float]
    pairs: int
    below: int | None
    dangerous: int | None
    of_distance: bool
    kept: NDArray[np.float32]

    @property
    def smallest_n(self) -> int | None:
        """The smallest n whose polynomial of degree 2^n has no pair below -2^n; None if there is none."""
        return smallest_n(self.minimum) if self.of_distance else None

    @cached_property
    def polynomial(self) -> Polynomial | None:
        """The polynomial of smallest depth with an error of at most 0.01; None if there is none."""
        return shallowest(self.minimum) if self.of_distance else None


def measure_ranges(model: GPT, blocks: Iterable[Tensor], *, seed: int = 0) -> list[HeadRange]:
    """Measure the arguments of every head.

    Args:
        model: The model, in evaluation mode.
        blocks: The tokens to read, (1, T) each.
        seed: Seed of the sample of kept arguments.
    """
    config, blocks = model.config, list(blocks)
    at_once = KEPT // len(blocks) + 1
    heads = [
        [_ArgumentCollector(config.kernel, at_once, seed) for _ in range(config.n_head)] for _ in range(config.n_layer)
    ]
    pairs = causal_mask(blocks[0].shape[1], blocks[0].shape[1], model.device)

    def watch(layer: int, query: Tensor, key: Tensor, *_: Tensor) -> None:
        for head, q, k in zip(heads[layer], query[0], key[0], strict=True):
            head.add(arguments(q, k, of_distance=uses_distance(config.kernel))[pairs])

    with torch.inference_mode(), observed(model, watch):
        for block in blocks:
            model(block)
    return [collector.result(layer, head) for layer, row in enumerate(heads) for head, collector in enumerate(row)]


def violations(ranges: Iterable[HeadRange]) -> tuple[float, float] | None:
    """Return the shares of all pairs below -N and below -2N + 12; None if the kernel is no such polynomial."""
    heads = list(ranges)
    if heads[0].below is None:
        return None
    pairs = sum(head.pairs for head in heads)
    return sum(head.below or 0 for head in heads) / pairs, sum(head.dangerous or 0 for head in heads) / pairs


def range_table(title: str, ranges: Iterable[HeadRange]) -> ResultTable:
    """Return a row for each head."""
    rows = []
    for head in ranges:
        row: dict[str, object] = {"layer": head.layer, "head": head.head, "min": head.minimum, "max": head.maximum}
        row |= dict(zip(("p0.1", "p1", "median"), head.quantiles, strict=True))
        if head.below is not None and head.dangerous is not None:
            row |= {"x < -N": head.below / head.pairs, "x < -2N+12": head.dangerous / head.pairs}
        if head.smallest_n is not None:
            row["smallest n"] = head.smallest_n
        if head.polynomial is not None:
            row |= {"polynomial": str(head.polynomial), "error": head.polynomial.error}
        rows.append(row)
    present = {name for row in rows for name in row}
    return ResultTable(title, {name: spec for name, spec in COLUMNS.items() if name in present}, rows)


def histogram_table(title: str, ranges: Iterable[HeadRange]) -> ResultTable:
    """Return a row for each bin of each head's histogram, with the share of pairs in it."""
    formats = {"layer": "d", "head": "d", "from": ".4g", "to": ".4g", "share": ".3%"}
    rows = []
    for head in ranges:
        counts, edges = np.histogram(head.kept, bins=BINS, range=(head.minimum, head.maximum))
        for count, span in zip(counts, itertools.pairwise(edges), strict=True):
            low, high = map(float, span)
            share = float(count) / len(head.kept)
            rows.append({"layer": head.layer, "head": head.head, "from": low, "to": high, "share": share})
    return ResultTable(title, formats, rows)


COLUMNS = {
    **{"layer": "d", "head": "d", "min": ".2f", "p0.1": ".2f", "p1": ".2f", "median": ".2f", "max": ".2f"},
    **{"x < -N": ".4%", "x < -2N+12": ".4%", "smallest n": "d", "error": ".1e", "polynomial": "s"},
}


class _ArgumentCollector:
    """Collects the arguments of one head."""

    def __init__(self, kernel: KernelSpec, at_once: int, seed: int) -> None:
        self._kernel, self._at_once = kernel, at_once
        self._turning = turning_points(kernel)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Tensor] = []
        self._minimum, self._maximum, self._pairs, self._below, self._dangerous = float("inf"), -float("inf"), 0, 0, 0

    def add(self, arguments: Tensor) -> None:
        """Add the arguments of a block."""
        arguments = arguments.cpu()
        self._minimum, self._maximum = (
            min(self._minimum, float(arguments.min())),
            max(self._maximum, float(arguments.max())),
        )
        self._pairs += len(arguments)
        if self._turning is not None:
            formal, dangerous = self._turning
            self._below += int((arguments < formal).sum())
            self._dangerous += int((arguments < dangerous).sum())
        if len(arguments) > self._at_once:
            arguments = arguments[torch.randint(len(arguments), (self._at_once,), generator=self._generator)]
        self._kept.append(arguments)

    def result(self, layer: int, head: int) -> HeadRange:
        """Return the range of the head."""
        kept = torch.cat(self._kept).numpy()
        low, first, median = (float(quantile) for quantile in np.quantile(kept, (0.001, 0.01, 0.5)))
        return HeadRange(
            layer=layer,
            head=head,
            minimum=self._minimum,
            maximum=self._maximum,
            quantiles=(low, first, median),
            pairs=self._pairs,
            below=self._below if self._turning is not None else None,
            dangerous=self._dangerous if self._turning is not None else None,
            of_distance=uses_distance(self._kernel),
            kept=kept,
        )
