"""The tensors of a Hugging Face folder: their names and layouts, and how our tensors consist of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quillgpt.checkpoint.stock_classes import STOCK_CLASSES
from quillgpt.errors import CheckpointError, cut, shorten
from quillgpt.model import GPT, GPTConfig

Tensors = dict[str, Tensor]

OF_OLD_VERSIONS = re.compile(r"\.attn\.(masked_)?bias$")
"""Constant masks that old versions of transformers stored as tensors."""


@dataclass(frozen=True)
class Part:
    """A stored tensor that is all or part of one of our tensors.

    Attributes:
        name: Its name in the Hugging Face folder.
        rows: Number of its rows, if several stored tensors are stacked in ours.
        transposed: It is stored as GPT-2's Conv1D is: (in, out) instead of (out, in).
    """

    name: str
    rows: int | None = None
    transposed: bool = False


def stored_parts(name: str, config: GPTConfig) -> list[Part]:
    """Return the stored tensors that one of our tensors consists of."""
    stock = STOCK_CLASSES[config.arch]
    kind = re.sub(r"^blocks\.\d+\.", "", name)
    module, _, leaf = kind.rpartition(".")
    if module == "head":
        return [Part("lm_head.weight")]
    prefix = stock.prefix + (f"{stock.layer_prefix}{name.split('.')[1]}." if name.startswith("blocks.") else "")
    stored = stock.modules[module]
    if isinstance(stored, str):
        return [Part(f"{prefix}{stored}.{leaf}", transposed=module in stock.transposed and leaf == "weight")]
    return [Part(f"{prefix}{part}.{leaf}", rows) for part, rows in zip(stored, config.fused_maps[kind], strict=True)]


def to_stored(state: Mapping[str, Tensor], config: GPTConfig) -> Tensors:
    """Return the tensors of the stock class: without a tied head, and with zeros for biases that the model lacks."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in stored_tensors(state.items(), config)}


def stored_tensors(named: Iterable[tuple[str, Tensor]], config: GPTConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of `to_stored` with their names, each as soon as ours is there."""
    return ((part.name, piece.T if part.transposed else piece) for part, piece in stored_pieces(named, config))


def stored_pieces(named: Iterable[tuple[str, Tensor]], config: GPTConfig) -> Iterator[tuple[Part, Tensor]]:
    """Yield the tensors of `to_stored`, but still in our layout: (out, in)."""
    for name, tensor in named:
        if name == "head.weight" and config.tied:
            continue
        parts = stored_parts(name, config)
        pieces = torch.split(tensor, [part.rows or tensor.shape[0] for part in parts])
        yield from zip(parts, pieces, strict=True)
        lacks_bias = config.architecture.biases and not config.bias
        if lacks_bias and re.search(r"(norm|qkv|output|up|down)\.weight$", name):
            yield Part(parts[0].name.removesuffix("weight") + "bias"), torch.zeros(tensor.shape[0])


def our_tensor(name: str, stored: Mapping[str, Tensor], config: GPTConfig) -> Tensor:
    """Return one of our tensors from those of a Hugging Face folder; a KeyError names a missing one."""
    parts = stored_parts(name, config)
    pieces = [_untransposed(stored[part.name], part) for part in parts]
    return (torch.cat(pieces) if len(pieces) > 1 else pieces[0]).contiguous()


def our_shape(name: str, sizes: Mapping[str, Tensor], config: GPTConfig) -> tuple[int, ...]:
    """Return the shape of what `our_tensor` returns, or () if the parts do not fit together.

    Joining tensors without values would make PyTorch import its compiler, which takes longer than most commands.
    """
    first, *others = (tuple(_untransposed(sizes[part.name], part).shape) for part in stored_parts(name, config))
    if not others:
        return first
    if not all(shape and shape[1:] == first[1:] for shape in (first, *others)):
        return ()
    return (sum(shape[0] for shape in (first, *others)), *first[1:])


def _untransposed(tensor: Tensor, part: Part) -> Tensor:
    return tensor.T if part.transposed and tensor.ndim == 2 else tensor


def with_prefix(names: Iterable[str], config: GPTConfig) -> dict[str, str]:
    """Map the stock class's names of tensors to those in a folder; published GPT-2s leave the prefix out."""
    names = list(names)
    stock = STOCK_CLASSES[config.arch]
    shortened = stock.prefix_is_optional and not any(name.startswith(stock.prefix) for name in names)
    return {stock.prefix + name if shortened and name != "lm_head.weight" else name: name for name in names}


def check_stored(stored: Mapping[str, Tensor], sizes: Mapping[str, Tensor], expected: GPT, *, where: str) -> None:
    """Check that a folder's tensors are those of a model, with none missing and none left over.

    Args:
        stored: The tensors; their values are read only if a bias has to be zero.
        sizes: The same without values, on the device `meta`.
        expected: The model.
        where: The folder's or file's path, for messages.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape, or a bias is not zero although the model
            has none.
    """
    config, used = expected.config, set()
    for name, size in sizes.items():
        if not size.is_floating_point() and not OF_OLD_VERSIONS.search(name):
            raise CheckpointError(
                f"{where}: {shorten(name)} is stored as {size.dtype}, expected numbers with a fraction"
            )
    for name, tensor in expected.state_dict().items():
        if name == "head.weight" and config.tied:
            continue
        try:
            shape = our_shape(name, sizes, config)
        except KeyError as missing:
            raise CheckpointError(
                f"{where}: the weights lack the tensor {missing.args[0]}, which its configuration says the model has"
            ) from None
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: {name} has the shape {shape}, its configuration says {tuple(tensor.shape)}"
            )
        used |= {part.name for part in stored_parts(name, config)}
    for name in stored.keys() - used:
        if OF_OLD_VERSIONS.search(name) or (name == "lm_head.weight" and config.tied):
            continue  # or a second copy of a tied head
        if not name.endswith(".bias") or config.bias:
            raise CheckpointError(
                f"{where}: the weights hold a tensor that this architecture does not have: {shorten(name)}"
            )
        if stored[name].count_nonzero():
            raise CheckpointError(
                f"{where}: {cut(name)} is not zero, but its configuration says that the model has no biases"
            )
