"""Comparing the files of runs."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from quillgpt.checkpoint.names import BEST, LAST, checkpoints_folder
from quillgpt.plots.record import METRICS, read_metrics
from quillgpt.proof.outcome import Refuted

COMPARED = ("kind", "iter", "loss", "lr", "grad_norm", "tokens", "train_loss", "val_loss")
"""The values of metrics.jsonl that are compared: all but times and speeds."""

LARGEST_GRADIENT_ERROR = 1e-5
"""Relative norm of the difference of two float32 gradients whose sums have another order."""

LARGEST_LOSS_ERROR = 1e-5
"""Difference of two float32 losses, nats per token."""

LARGEST_LOGIT_ERROR = 1e-4
"""Difference of two float32 logits."""


def require(holds: bool, otherwise: str) -> None:
    """Check that a promise holds.

    Raises:
        Refuted: It does not hold.
    """
    if not holds:
        raise Refuted(otherwise)


def tensors_of(run: Path) -> dict[str, Tensor]:
    """Return all tensors of a run's last and best checkpoints, by checkpoint, file and name."""
    tensors: dict[str, Tensor] = {}
    for checkpoint in (checkpoints_folder(run) / name for name in (LAST, BEST)):
        for file in sorted(checkpoint.rglob("*.safetensors")):
            label = f"{checkpoint.name}/{file.relative_to(checkpoint).as_posix()}"
            tensors |= {f"{label}:{name}": tensor for name, tensor in load_file(file).items()}
    return tensors


def require_equal_runs(one: Path, other: Path) -> str:
    """Check that two runs have the same tensors, bit for bit, and the same metrics; return the counts of differences.

    Raises:
        Refuted: They differ; the message says in how many values, and names the first tensor.
    """
    ours, theirs = tensors_of(one), tensors_of(other)
    require(bool(ours), f"{one.name} has no checkpoint")
    require(ours.keys() == theirs.keys(), f"the checkpoints of {one.name} and {other.name} hold different tensors")
    different = {name: different_values(tensor, theirs[name]) for name, tensor in ours.items()}
    count, total = sum(different.values()), sum(tensor.numel() for tensor in ours.values())
    first = next((f", the first in {name}" for name, values in different.items() if values), "")
    rows, their_rows = record_of(one), record_of(other)
    different_rows = abs(len(rows) - len(their_rows))
    different_rows += sum(row != their_row for row, their_row in zip(rows, their_rows, strict=False))
    figure = f"{count:,} of {total:,} values and {different_rows} of {len(rows)} rows differ{first}"
    require(not count and not different_rows, figure)
    return figure


def different_values(one: Tensor, other: Tensor) -> int:
    """Count the values whose bits differ; all of them if type or shape differ."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return max(one.numel(), other.numel(), 1)
    bits = [tensor.contiguous().view(-1).view(torch.uint8).view(-1, tensor.element_size()) for tensor in (one, other)]
    return int((bits[0] != bits[1]).any(1).sum())


def record_of(run: Path) -> list[tuple[object, ...]]:
    """Return the rows of a run's metrics.jsonl without times and speeds."""
    return [tuple(row.get(name) for name in COMPARED) for row in read_metrics(run / METRICS)]


def relative_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two sets of tensors, relative to the norm of the first."""
    require(one.keys() == other.keys(), "the tensors have different names")
    difference = sum(float((one[name].double() - other[name].double()).square().sum()) for name in one)
    scale = sum(float(tensor.double().square().sum()) for tensor in one.values())
    return float((difference / scale) ** 0.5) if scale else float("inf")
