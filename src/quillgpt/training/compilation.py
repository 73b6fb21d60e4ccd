"""torch.compile, applied from outside of the model, block by block."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from torch import nn

from quillgpt.console import warn
from quillgpt.errors import DeviceError
from quillgpt.model import GPT

ISA_VARIABLE = "ATEN_CPU_CAPABILITY"


def compile_model(model: GPT) -> None:
    """Compile a model's blocks and its loss.

    All blocks share one compiled function, so compiling takes the time of one block.
    """
    if model.device.type == "cpu" and ISA_VARIABLE not in os.environ:
        try_best_instructions_only()
    for owner, name in _parts(model):
        setattr(owner, name, torch.compile(getattr(owner, name)))


@functools.cache
def try_best_instructions_only() -> None:
    """Let PyTorch try only the best instruction set of this CPU, which it uses, if the C++ compiler knows it.

    It would try all of them, which takes a third of the C++ compiler's time. The code is the same.
    """
    with suppress(ImportError, AttributeError, StopIteration):  # another version of PyTorch does as it does
        from torch._inductor import cpu_vec_isa

        known, own = cpu_vec_isa.supported_vec_isa_list, set(cpu_vec_isa.x86_isa_checker())
        best = next(instructions for instructions in known if own.issuperset(str(instructions).split()))
        if best:
            known[:] = [best]


def warn_of_failed_compilation(error: Exception) -> None:
    """Say that torch.compile failed and that the run goes on without it."""
    warn(f"torch.compile failed ({reason_of(error)}); going on without it, as --compile=False would")


def failed_on_rank(error: Exception, rank: int) -> DeviceError:
    """Return the error that says that torch.compile failed on one of several ranks."""
    return DeviceError(f"torch.compile failed on rank {rank} ({reason_of(error)}); --compile=False goes without it")


def reason_of(error: Exception) -> str:
    """Return in one line why torch.compile failed."""
    return " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__


def leave_uncompiled(model: GPT) -> None:
    """Undo `compile_model`."""
    for owner, name in _parts(model):
        vars(owner).pop(name, None)


@contextmanager
def uncompiled(model: GPT) -> Iterator[None]:
    """Run a model uncompiled while the block runs: for hooks, and for shapes that would be compiled again."""
    compiled = [(owner, name, vars(owner).pop(name)) for owner, name in _parts(model) if name in vars(owner)]
    try:
        yield
    finally:
        for owner, name, function in compiled:
            setattr(owner, name, function)


def _parts(model: GPT) -> list[tuple[nn.Module, str]]:
    """Return the methods to compile. Set as attributes of an object, compiled ones replace those of its class."""
    return [*((block, "forward") for block in model.blocks if not block.fused), (model, "loss_from_hidden")]
