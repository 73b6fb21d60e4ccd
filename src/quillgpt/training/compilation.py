"""torch.compile, applied from outside of the model, block by block."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import nn

from quillgpt.console import warn
from quillgpt.errors import DeviceError
from quillgpt.files import quill_home
from quillgpt.model import GPT

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
ISA_VARIABLE = "ATEN_CPU_CAPABILITY"


def keep_compiled_code(*, compiling: bool = True) -> None:
    """Keep compiled code in the cache folder for the next run.

    PyTorch would use a temporary folder instead, and chooses it when the first optimizer is made. It runs the code that
    it finds there, so the folder must belong to this user alone.

    Args:
        compiling: Whether to warn if it does not.
    """
    if CACHE_VARIABLE in os.environ:
        return
    folder = quill_home() / "compiled"
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700, exist_ok=True)  # another run may have made it now
    if reason := why_not_private(folder):
        if compiling:
            warn(
                f"{folder} {reason}, and what is in it would be run: it is left alone, and code is compiled anew; "
                "remove it, or set QUILL_HOME to a folder of your own"
            )
        folder = Path(tempfile.mkdtemp(prefix="quill-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    else:
        folder.chmod(0o700)
    os.environ[CACHE_VARIABLE] = str(folder)


def why_not_private(folder: Path) -> str | None:
    """Return why somebody else may have written into a folder; None if only its user may."""
    if os.name == "nt":  # whose folders have no such modes
        return None
    own, above = folder.lstat(), folder.parent.stat()
    if not stat.S_ISDIR(own.st_mode):
        return "is no folder, or a link"
    if own.st_uid != os.geteuid():
        return "belongs to somebody else"
    if own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "may be written by others"
    if above.st_uid not in (os.geteuid(), 0) or (above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX):
        return "lies in a folder in which others may replace it"
    return None


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
