"""The range of each head's arguments over held-out text, and the polynomial that it needs.

Whoever computes attention on encrypted numbers must know before where its arguments lie: a polynomial is near exp on a
range, and far from it outside.
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
from quillgpt.lab.observe import arguments, looks_at_distance, observed
from quillgpt.lab.polynomials import Polynomial, shallowest, smallest_n, turning_points
from quillgpt.lab.tables import ResultTable
from quillgpt.model import GPT

KEPT = 50_000
"""Arguments of a head that are kept for quantiles and its histogram; extremes and rates count all pairs."""

BINS = 60


@dataclass(frozen=True)
class HeadRange:
    """The arguments of one head.

    Attributes:
        layer: Its layer, from 0.
        head: Its number there, from 0.
        minimum: The least, of all pairs.
        maximum: The greatest.
        quantiles: At 0.1 %, 1 % and 50 %, of those that are kept.
        pairs: How many pairs there were.
        below: How many of them below -N, where (1 + x/N)^N turns back; None where the kernel is no such polynomial.
        dangerous: How many below -2N + 12, where it is no longer near 0; None likewise.
        of_distance: Whether the arguments are those of a Gaussian.
        kept: All arguments, or where there are more some of them, drawn evenly, float32 (KEPT or a few more,).
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
        """The least n whose polynomial of degree 2^n has no pair below -2^n; None: there is none."""
        return smallest_n(self.minimum) if self.of_distance else None

    @cached_property
    def polynomial(self) -> Polynomial | None:
        """The polynomial of least depth that errs by no more than a hundredth; None: there is none."""
        return shallowest(self.minimum) if self.of_distance else None


def measure_ranges(model: GPT, blocks: Iterable[Tensor], *, seed: int = 0) -> list[HeadRange]:
    """Measure the arguments of every head.

    Args:
        model: In evaluation mode.
        blocks: What it reads, each (1, T).
        seed: Of the choice of the arguments that are kept.
    """
    config, blocks = model.config, list(blocks)
    at_once = KEPT // len(blocks) + 1
    heads = [[_Head(config.kernel, at_once, seed) for _ in range(config.n_head)] for _ in range(config.n_layer)]
    pairs = causal_mask(blocks[0].shape[1], blocks[0].shape[1], model.device)

    def watch(layer: int, query: Tensor, key: Tensor, *_: Tensor) -> None:
        for head, q, k in zip(heads[layer], query[0], key[0], strict=True):
            head.add(arguments(q, k, of_distance=looks_at_distance(config.kernel))[pairs])

    with torch.inference_mode(), observed(model, watch):
        for block in blocks:
            model(block)
    return [each.result(layer, head) for layer, row in enumerate(heads) for head, each in enumerate(row)]


def violations(found: Iterable[HeadRange]) -> tuple[float, float] | None:
    """Return the shares of all heads' pairs that are formal and dangerous violations; None where there are no such."""
    heads = list(found)
    if heads[0].below is None:
        return None
    pairs = sum(each.pairs for each in heads)
    return sum(each.below or 0 for each in heads) / pairs, sum(each.dangerous or 0 for each in heads) / pairs


def range_table(title: str, found: Iterable[HeadRange]) -> ResultTable:
    """Return a row for each head."""
    rows = []
    for each in found:
        row: dict[str, object] = {"layer": each.layer, "head": each.head, "min": each.minimum, "max": each.maximum}
        row |= dict(zip(("p0.1", "p1", "median"), each.quantiles, strict=True))
        if each.below is not None and each.dangerous is not None:
            row |= {"x < -N": each.below / each.pairs, "x < -2N+12": each.dangerous / each.pairs}
        if each.smallest_n is not None:
            row["smallest n"] = each.smallest_n
        if each.polynomial is not None:
            row |= {"polynomial": str(each.polynomial), "error": each.polynomial.error}
        rows.append(row)
    present = {name for row in rows for name in row}
    return ResultTable(title, {name: spec for name, spec in COLUMNS.items() if name in present}, rows)


def histogram_table(title: str, found: Iterable[HeadRange]) -> ResultTable:
    """Return a row for each bin of each head's histogram, with the share of the pairs that lie in it."""
    formats = {"layer": "d", "head": "d", "from": ".4g", "to": ".4g", "share": ".3%"}
    rows = []
    for each in found:
        counts, edges = np.histogram(each.kept, bins=BINS, range=(each.minimum, each.maximum))
        for count, span in zip(counts, itertools.pairwise(edges), strict=True):
            low, high = map(float, span)
            share = float(count) / len(each.kept)
            rows.append({"layer": each.layer, "head": each.head, "from": low, "to": high, "share": share})
    return ResultTable(title, formats, rows)


COLUMNS = {
    **{"layer": "d", "head": "d", "min": ".2f", "p0.1": ".2f", "p1": ".2f", "median": ".2f", "max": ".2f"},
    **{"x < -N": ".4%", "x < -2N+12": ".4%", "smallest n": "d", "error": ".1e", "polynomial": "s"},
}


class _Head:
    """What is known of a head so far."""

    def __init__(self, kernel: KernelSpec, at_once: int, seed: int) -> None:
        self._kernel, self._at_once = kernel, at_once
        self._turning = turning_points(kernel)
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: list[Tensor] = []
        self._minimum, self._maximum, self._pairs, self._below, self._dangerous = float("inf"), -float("inf"), 0, 0, 0

    def add(self, found: Tensor) -> None:
        """Take in the arguments of a block."""
        found = found.cpu()
        self._minimum, self._maximum = min(self._minimum, float(found.min())), max(self._maximum, float(found.max()))
        self._pairs += len(found)
        if self._turning is not None:
            formal, dangerous = self._turning
            self._below += int((found < formal).sum())
            self._dangerous += int((found < dangerous).sum())
        if len(found) > self._at_once:
            found = found[torch.randint(len(found), (self._at_once,), generator=self._generator)]
        self._kept.append(found)

    def result(self, layer: int, head: int) -> HeadRange:
        """Return what was found."""
        kept = torch.cat(self._kept).numpy()
        low, first, median = (float(each) for each in np.quantile(kept, (0.001, 0.01, 0.5)))
        return HeadRange(
            layer=layer,
            head=head,
            minimum=self._minimum,
            maximum=self._maximum,
            quantiles=(low, first, median),
            pairs=self._pairs,
            below=self._below if self._turning is not None else None,
            dangerous=self._dangerous if self._turning is not None else None,
            of_distance=looks_at_distance(self._kernel),
            kept=kept,
        )
