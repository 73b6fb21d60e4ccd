"""`python -m quillgpt.proof.faulty FAULT COMMAND ...` is `quill COMMAND ...` on a machine with a fault.

FAULT is `poisoned_batch:N`: iteration N, counted from 0, always computes NaN; or `full_disk:N`: the disk is full after
N checkpoints. The trainer itself is unchanged: its source of batches, or what writes tensors, is replaced.
"""

from __future__ import annotations

import errno
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from quillgpt.checkpoint.tensor_file import TensorFile
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.data.batches import TrainingBatches


def poison_batch(iteration: int) -> None:
    """Make the embeddings of an iteration's batch NaN, every time it is computed."""
    read_batch, poisoned = TrainingBatches.batch, False

    def read_and_arm(batches: TrainingBatches, number: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        nonlocal poisoned
        poisoned = number == iteration
        return read_batch(batches, number, rows)

    def spoil(module: nn.Module, _: object, output: Tensor) -> Tensor | None:
        return output * torch.nan if poisoned and module.training and isinstance(module, nn.Embedding) else None

    TrainingBatches.batch = read_and_arm  # type: ignore[method-assign, assignment]
    register_module_forward_hook(spoil)  # type: ignore[arg-type]


def fill_disk(checkpoints: int) -> None:
    """Make every write of tensors after this many checkpoints fail in the middle."""
    write, written = TensorFile.write, 0

    def write_or_fail(file: TensorFile, path: Path) -> None:
        nonlocal written
        write(file, path)
        written += path.name == WEIGHTS
        if written > checkpoints:
            os.truncate(path, path.stat().st_size // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    TensorFile.write = write_or_fail  # type: ignore[method-assign, assignment]


FAULTS: dict[str, Callable[[int], None]] = {"poisoned_batch": poison_batch, "full_disk": fill_disk}


if __name__ == "__main__":
    name, _, number = sys.argv.pop(1).partition(":")
    FAULTS[name](int(number))
    runpy.run_module("quillgpt", run_name="__main__")
