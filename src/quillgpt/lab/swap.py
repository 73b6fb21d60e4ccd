"""Trained with one kernel, evaluated with others."""

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
from quillgpt.lab.tables import ResultTable
from quillgpt.lab.variants import with_kernel

NONE: Mapping[str, Any] = MappingProxyType({})

RANGE = re.compile(r"GKpoly-([0-9]+)\.\.([0-9]+)", re.ASCII)


@dataclass(frozen=True)
class Swapped:
    """A model's score with a kernel.

    Attributes:
        kernel: The kernel.
        own: Whether the model was trained with it.
        score: What came of it; its loss may be no finite number.
    """

    kernel: KernelSpec
    own: bool
    score: Score


def read_kernels(names: str) -> list[str]:
    """Read names of kernels that commas separate; GKpoly-1..10 stands for ten.

    Raises:
        ConfigError: One is none, there are none, or one comes twice.
    """
    found: list[str] = []
    for name in filter(None, (each.strip() for each in names.split(","))):
        if (span := RANGE.fullmatch(name)) is not None:
            first, last = int(span[1]), int(span[2])
            if first > last:
                raise ConfigError(f"{name} counts down; write GKpoly-{last}..{first}")
            last = min(last, LARGEST_POLY + 1)  # one too many, which is then refused
            found += [f"GKpoly-{n}" for n in range(first, last + 1)]
        else:
            found.append(name)
    for name in found:
        try:
            parse_attn_type(name)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if not found:
        raise ConfigError("no attention kernel is named; give several separated by commas, such as SM,GK,GKpoly-1..10")
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise ConfigError(f"{twice} is named twice; name each attention kernel once")
    return found


def swap(opened: ModelAndText, names: Sequence[str], options: Mapping[str, Any] = NONE) -> Iterable[Swapped]:
    """Score a model with its own kernel and then with each of the named ones, on the blocks of the text.

    Args:
        opened: The model and the blocks.
        names: The kernels.
        options: Options, each for those of the kernels that have it.

    Raises:
        ConfigError: None of them has an option.
    """
    own = opened.gpt.config.kernel
    for option in options:
        if not any(options_of(name, {option: None}) for name in names):
            raise ConfigError(f"{option} is for {', '.join(sorted(OPTIONS[option]))}, and none is named; leave it out")
    others = [own.swapped(name, **options_of(name, options)) for name in names]
    for kernel in [own, *(each for each in others if each != own)]:
        score = opened.score(with_kernel(opened.gpt, kernel))
        yield Swapped(kernel, kernel == own, score)


def swap_table(title: str, found: Iterable[Swapped]) -> ResultTable:
    """Return a row for each kernel."""
    formats = {"kernel": "s", "degree": ",d", "depth": "d", "loss": ".4f", "perplexity": ".6g", "": "s"}
    rows = [
        {
            "kernel": str(each.kernel),
            "degree": each.kernel.degree,
            "depth": each.kernel.depth,
            "loss": each.score.loss,
            "perplexity": each.score.perplexity,
            "": "the model's own" if each.own else "",
        }
        for each in found
    ]
    return ResultTable(title, formats, rows)
