"""The lab's figures; they need matplotlib, but no display."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.attention.pointwise import pointwise
from quillgpt.lab.kernel_summary import KernelSummary
from quillgpt.lab.lengths import LengthLoss
from quillgpt.lab.observe import uses_distance
from quillgpt.lab.polynomials import shallowest
from quillgpt.lab.ranges import BINS, HeadRange
from quillgpt.lab.swap import Swapped
from quillgpt.lab.weights import RowStatistics
from quillgpt.plots.chart import short_number
from quillgpt.plots.figure import COLOURS, INK, tidy
from quillgpt.plots.record import Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES_PER_MAP = 3.4
LONGEST_TICKS = 40
"""Longer texts get maps without the names of tokens."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure with a layout that avoids overlaps; sizes in inches."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def draw_kernel(kernel: KernelSpec, heads: Sequence[HeadRange]) -> Figure:
    """Draw the weight over the argument, polynomials and exp together, above a histogram of all heads' arguments."""
    figure = new_figure(9, 6)
    weights, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    low, high = min(head.minimum for head in heads), max(head.maximum for head in heads)
    argument = torch.linspace(low, high, 1000, dtype=torch.float64)
    x = argument.numpy()
    if uses_distance(kernel):
        weights.plot(x, argument.exp().numpy(), color=INK, linewidth=2.2, label="exp")
        for colour, spec in zip(COLOURS, _polynomials(kernel, heads), strict=False):
            label = f"{spec.attn_type}, {spec.poly_form}: degree {spec.degree}, depth {spec.depth}"
            weights.plot(x, pointwise(spec).value(argument).numpy(), color=colour, linestyle="--", label=label)
        weights.set_ylim(-0.15, 1.15)
        histogram.set_xlabel("argument x = -|q - k|² / (2 √D)")
    else:
        weights.plot(x, pointwise(kernel).value(argument).numpy(), color=COLOURS[0], label=kernel.attn_type)
        histogram.set_xlabel("argument s = q·k / √D")
    together = np.concatenate([head.kept for head in heads])
    histogram.hist(together, bins=BINS, weights=np.full(len(together), 1 / len(together)), color=COLOURS[5])
    histogram.set_yscale("log")
    histogram.set_ylabel("share of pairs")
    weights.set_ylabel("weight")
    weights.legend(frameon=False)
    for panel in (weights, histogram):
        tidy(panel)
    return figure


def _polynomials(kernel: KernelSpec, heads: Sequence[HeadRange]) -> list[KernelSpec]:
    """Return the polynomials to draw with exp: the kernel's own, and the shallowest that is enough for all heads."""
    own = [kernel] if kernel.type.family == "GKpoly" else []
    shared = shallowest(min(head.minimum for head in heads))
    return own if shared is None or shared.spec in own else [*own, shared.spec]


def draw_maps(weights: Tensor, words: Sequence[str], *, title: str) -> Figure:
    """Draw the attention weights of every head as maps, a row of maps for each layer, with row sums beside each map.

    Args:
        weights: The weights (layers, H, T, T).
        words: The T tokens.
        title: The title of the figure.
    """
    layers, heads, T, _ = weights.shape
    figure = new_figure(max(6.0, INCHES_PER_MAP * heads), INCHES_PER_MAP * layers + 0.6)
    figure.suptitle(title)
    ratios = [4, 1] * heads
    panels = figure.subplots(layers, 2 * heads, squeeze=False, width_ratios=ratios, sharey=True)
    signed = bool((weights < 0).any())
    for layer in range(layers):
        for head in range(heads):
            own, (map_panel, sums) = weights[layer, head].numpy(), panels[layer, 2 * head : 2 * head + 2]
            largest = float(np.abs(own).max()) or 1.0
            scale: dict[str, Any] = {"vmin": -largest, "vmax": largest, "cmap": "RdBu_r"}
            map_panel.imshow(own, aspect="auto", **(scale if signed else {"vmin": 0, "vmax": largest, "cmap": "Blues"}))
            map_panel.set_title(f"layer {layer}, head {head}, up to {largest:.2g}", fontsize=8)
            sums.barh(range(T), own.sum(-1), color=COLOURS[1], height=1)
            sums.tick_params(labelsize=6, left=False)
            sums.locator_params(axis="x", nbins=2)
            _name_tokens(map_panel, words)
    for layer in range(layers):
        panels[layer, 0].set_ylabel("query", fontsize=8)
    figure.supxlabel("key; beside each map the sums of its rows", fontsize=8)
    return figure


def _name_tokens(panel: Axes, words: Sequence[str]) -> None:
    panel.tick_params(labelsize=5, length=1, pad=1)
    if len(words) <= LONGEST_TICKS:
        panel.set_xticks(range(len(words)), words, rotation=90)
        panel.set_yticks(range(len(words)), words)


def by_position(values: Tensor) -> tuple[list[float], list[float]]:
    """Return positions, from 1, and the mean of values (T,) around each, over wider spans at later positions."""
    spans = list(itertools.pairwise(np.unique(np.geomspace(1, len(values) + 1, 40).astype(int))))
    middles = [(low + high - 1) / 2 for low, high in spans]
    return middles, [float(values[low - 1 : high - 1].mean()) for low, high in spans]


def draw_rows(statistics: RowStatistics) -> Figure:
    """Draw entropy, row sum and output norm by position: a line for each head, a colour for each layer."""
    figure = new_figure(9, 9)
    panels = figure.subplots(3, 1, sharex=True)
    named = (
        (statistics.entropy, "entropy of the weights (nats)"),
        (statistics.sums, "sum of the weights"),
        (statistics.norms, "norm of the output |y|"),
    )
    layers, _, T = statistics.sums.shape
    position = np.arange(1, T + 1)
    for panel, (values, name) in zip(panels, named, strict=True):
        for layer in range(layers):
            for head, line in enumerate(values[layer]):
                label = f"layer {layer}" if head == 0 else None
                colour = COLOURS[layer % len(COLOURS)]
                panel.plot(*by_position(line), color=colour, linewidth=0.9, label=label)
        panel.set_ylabel(name)
        panel.set_ylim(0, 1.05 * max(float(values.max()), 1e-6) if float(values.min()) >= 0 else None)
        panel.set_xscale("log")
        tidy(panel)
    panels[0].plot(position, np.log(position), color=INK, linestyle=":", label="all keys alike")
    panels[0].legend(frameon=False, ncols=min(4, layers + 1))
    panels[-1].set_xlabel("position of the query")
    return figure


def draw_lengths(results: Sequence[LengthLoss], block_size: int) -> Figure:
    """Draw the loss by position for blocks of several lengths, and the mean loss by length."""
    figure = new_figure(9, 7)
    positions, means = figure.subplots(2, 1, height_ratios=(2, 1))
    for colour, result in zip(COLOURS, results, strict=False):
        positions.plot(*by_position(result.by_position), color=colour, label=f"blocks of {result.length:,}")
    positions.axvline(block_size, color=INK, linestyle=":", label="training length")
    positions.set_xscale("log")
    positions.set_xlabel("position")
    positions.legend(frameon=False)
    lengths = [result.length / block_size for result in results]
    means.plot(lengths, [result.loss for result in results], "o-", color=COLOURS[0])
    means.set_xscale("log", base=2)
    means.set_xlabel("length of a block / training length")
    means.set_xticks(lengths, [f"{length:g}" for length in lengths])
    for panel in (positions, means):
        panel.set_ylabel("loss (nats per token)")
        tidy(panel)
    return figure


def draw_swaps(results: Sequence[Swapped]) -> Figure:
    """Draw perplexity over the n of GKpoly-n, and over multiplicative depth with a line through the best kernels."""
    from matplotlib.ticker import LogFormatter

    figure = new_figure(9, 5)
    by_n, by_depth = figure.subplots(1, 2, sharey=True)
    polynomials = sorted(
        (result for result in results if result.kernel.type.family == "GKpoly"), key=lambda result: result.kernel.type.n
    )
    by_n.plot(
        [result.kernel.type.n for result in polynomials],
        [result.score.perplexity if _is_finite(result) else math.nan for result in polynomials],  # NaN breaks the line
        "o-",
        color=COLOURS[0],
        label="GKpoly-n",
    )
    others = [result for result in results if result.kernel.depth is None and _is_finite(result)]
    for colour, result in zip(itertools.cycle(COLOURS[1:]), others, strict=False):
        for panel in (by_n, by_depth):
            label = result.kernel.attn_type + (", the model's own" if result.own else "")
            panel.axhline(result.score.perplexity, color=colour, linestyle="--", label=label)
    points = {
        str(result.kernel): (result.kernel.depth, result.score.perplexity)
        for result in results
        if result.kernel.depth is not None and _is_finite(result)
    }
    for name, point in points.items():
        by_depth.plot(*point, "o", color=COLOURS[0])
        by_depth.annotate(name, point, fontsize=7, rotation=50, xytext=(2, 4), textcoords="offset points")
    if front := _front(points.values()):
        by_depth.plot(*zip(*front, strict=True), color=COLOURS[0], linewidth=1)
    by_n.set_xlabel("n")
    by_n.set_ylabel("perplexity")
    by_depth.set_xlabel("estimated multiplicative depth")
    by_n.set_yscale("log")
    by_n.yaxis.set_major_formatter("{x:g}")
    by_n.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    figure.legend(*by_n.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    for panel in (by_n, by_depth):
        tidy(panel)
    return figure


def _is_finite(result: Swapped) -> bool:
    return math.isfinite(result.score.perplexity)


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front, sorted: the points for which no other has both less depth and less perplexity."""
    front: list[tuple[float, float]] = []
    for depth, perplexity in sorted(points):
        if not front or perplexity < front[-1][1]:
            front.append((depth, perplexity))
    return front


def draw_comparison(summaries: Sequence[KernelSummary], curves: Mapping[str, Sequence[Points]]) -> Figure:
    """Draw the validation loss of every run over tokens, and each kernel's mean final loss with its standard error.

    The loss before training is left out: it would flatten the curves.

    Args:
        summaries: The kernels that have a result.
        curves: For each kernel and seed, tokens and loss of the evaluations.
    """
    figure = new_figure(10, 5.5)
    learning, finals = figure.subplots(1, 2, width_ratios=(3, 2))
    ranked = sorted(summaries, key=lambda summary: summary.loss or math.inf)
    for number, summary in enumerate(ranked):
        colour, style = COLOURS[number % len(COLOURS)], ("-", "--", ":")[number // len(COLOURS) % 3]
        for seed, points in enumerate(curves[summary.kernel]):
            label = summary.kernel if seed == 0 else None
            tokens, losses = np.array(points).reshape(-1, 2).T
            learning.plot(tokens[tokens > 0], losses[tokens > 0], style, color=colour, linewidth=1, label=label)
        finals.errorbar(summary.loss, number, xerr=summary.standard_error, fmt="o", color=colour, capsize=3)
    finals.set_yticks(range(len(ranked)), [summary.kernel for summary in ranked])
    finals.invert_yaxis()
    finals.set_xlabel("final validation loss ± standard error")
    learning.set_xlabel("tokens trained on")
    learning.set_ylabel("validation loss (nats per token)")
    learning.xaxis.set_major_formatter(lambda value, _: short_number(value))
    learning.locator_params(axis="x", nbins=5)
    names = learning.get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    for panel in (learning, finals):
        tidy(panel)
    return figure
