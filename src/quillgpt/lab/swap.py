"""Evaluating a model with other kernels than the one it was trained with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from quillgpt.attention import KernelSpec
from quillgpt.config.schema.attention import LARGEST_POLY, OPTIONS, options_of, parse_attn_type
from quillgpt.errors import ConfigError
from quillgpt.evaluation import Score
from quillgpt.lab.model_and_text import ModelAndText
from quillgpt.lab.variants import with_kernel
from quillgpt.tables import ResultTable

NONE: Mapping[str, Any] = MappingProxyType({})

RANGE = re.compile(r"GKpoly-([0-9]+)\.\.([0-9]+)", re.ASCII)


@dataclass(frozen=True)
class Swapped:
    """The score of a model with a kernel.

    Attributes:
        kernel: The kernel.
        own: Whether the model was trained with it.
        score: The score; the loss may be infinite or NaN.
    """

    kernel: KernelSpec
    own: bool
    score: Score


def read_kernels(names: str) -> list[str]:
    """Read names of kernels, separated by commas; GKpoly-1..10 stands for ten.

    Raises:
        ConfigError: A name is unknown or given twice, or there is none.
    """
    kernels: list[str] = []
    for name in filter(None, (word.strip() for word in names.split(","))):
        if (span := RANGE.fullmatch(name)) is not None:
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise ConfigError(f"{name} counts down; write GKpoly-{last}..{first}")
            last = min(last, LARGEST_POLY + 1)  # one above the limit, which is refused below
            kernels += [f"GKpoly-{n}" for n in range(first, last + 1)]
        else:
            kernels.append(name)
    for name in kernels:
        try:
            parse_attn_type(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if not kernels:
        raise ConfigError("no attention kernel is named; give several separated by commas, such as SM,GK,GKpoly-1..10")
    if len(set(kernels)) < len(kernels):
        twice = next(name for name in kernels if kernels.count(name) > 1)
        raise ConfigError(f"{twice} is named twice; name each attention kernel once")
    return kernels


def score_kernels(opened: ModelAndText, names: Sequence[str], options: Mapping[str, Any] = NONE) -> Iterable[Swapped]:
    """Evaluate a model with its own kernel and then with each of the named ones, on the blocks of the text.

    Args:
        opened: The model and the blocks.
        names: The kernels.
        options: Options of kernels; each applies to the kernels that have it.

    Raises:
        ConfigError: No named kernel has an option.
    """
    own = opened.gpt.config.kernel
    for option in options:
        if not any(options_of(name, {option: None}) for name in names):
            raise ConfigError(
                f"{option} is for {', '.join(sorted(OPTIONS[option]))}, and none of them is named; leave it out"
            )
    others = [own.swapped(name, **options_of(name, options)) for name in names]
    for kernel in [own, *(other for other in others if other != own)]:
        score = opened.score(with_kernel(opened.gpt, kernel))
        yield Swapped(kernel, kernel == own, score)


def swap_table(title: str, results: Iterable[Swapped]) -> ResultTable:
    """Return a row for each kernel."""
    formats = {"kernel": "s", "degree": ",d", "depth": "d", "loss": ".4f", "perplexity": ".6g", "": "s"}
    rows = [
        {
            "kernel": str(result.kernel),
            "degree": result.kernel.degree,
            "depth": result.kernel.depth,
            "loss": result.score.loss,
            "perplexity": result.score.perplexity,
            "": "the model's own" if result.own else "",
        }
        for result in results
    ]
    return ResultTable(title, formats, rows)
