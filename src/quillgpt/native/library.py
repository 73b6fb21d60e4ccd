"""The C++ files as libraries: translated once by the machine's compiler, kept, and called with tensors.

`torch.utils.cpp_extension` is not used. Its headers make a second of compiling into half a minute.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from quillgpt.console import say
from quillgpt.files import atomic_path
from quillgpt.native.compiled_folder import compiled_folder

TRAINING, DECODING, HEADER = (Path(__file__).with_name(name) for name in ("kernels.cpp", "decoding.cpp", "vectors.h"))
TYPES = {torch.bfloat16: [], torch.float32: ["-DFLOAT32"]}
"""The number formats of training's values, with the compiler's flags for them."""

FLAGS = ["-std=c++20", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-fopenmp"]
X86_FLAGS = ["-mprefer-vector-width=512"]
COMPILER_SECONDS = 120


class Dropout(ctypes.Structure):
    """Which values a kernel drops; the default drops none.

    A row's levels are the 16-bit parts of the 64-bit numbers that `quillgpt.attention.dropout.scramble` makes of the
    sequence's seed and the numbers that follow.
    """

    _fields_ = (("seeds", ctypes.c_void_p), ("dropped", ctypes.c_int32), ("scale", ctypes.c_float))


class Strides(ctypes.Structure):
    """Where the heads of queries, keys and values lie in a matrix: the first strides of a view (B, H + 2 G, T, D)."""

    _fields_ = (("sequence", ctypes.c_int64), ("head", ctypes.c_int64), ("position", ctypes.c_int64))


Argument = Tensor | Dropout | Strides | int | float | None


class Kernels:
    """The functions of a C++ file by their names; they use as many threads as PyTorch does.

    Args:
        library: The loaded library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Callable[..., None]:
        function = getattr(self._library, name)
        function.restype = None

        def call(*arguments: Argument) -> None:
            function(ctypes.c_int64(torch.get_num_threads()), *map(_as_c, arguments))

        setattr(self, name, call)
        return call


def _as_c(argument: Argument) -> object:
    if isinstance(argument, Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_float(argument)
    return ctypes.c_void_p(None) if argument is None else argument


@cache
def kernels(dtype: torch.dtype) -> Kernels:
    """Return the kernels of training for values in a number format, compiled now if they are not kept yet.

    Raises:
        OSError: They cannot be compiled or loaded here.
    """
    return Kernels(_load(TRAINING, TYPES[dtype]))


@cache
def decoding_kernels() -> Kernels | None:
    """Return the kernel of a decode step, compiled now if it is not kept yet; None where there is none."""
    if sys.platform == "win32":
        return None
    try:
        return Kernels(_load(DECODING, []))
    except OSError:
        return None


def _load(source: Path, flags: list[str]) -> ctypes.CDLL:
    """Return a C++ file as a library.

    Raises:
        OSError: It cannot be compiled or loaded here.
    """
    command = [_compiler(), *FLAGS, *(X86_FLAGS if platform.machine() in ("x86_64", "AMD64") else []), *flags]
    library = compiled_folder() / f"quill-{source.stem}-{_fingerprint(source, command)}.so"
    try:
        functions = ctypes.CDLL(str(library))
    except OSError:  # it is not there yet, or damaged
        say(f"compiling {source.name} for this processor, which takes some seconds, once")
        _compile([*command, str(source)], library)
        functions = ctypes.CDLL(str(library))
    if not functions.usable():
        raise OSError("the system does not let a process use the processor's matrix unit")
    return functions


def why_unavailable(dtype: torch.dtype, *, building: bool = True) -> str | None:
    """Return why there are no kernels for a number format on this machine; None if there are.

    Args:
        dtype: The number format.
        building: Compile them now; else a compiler is enough.
    """
    if sys.platform == "win32":
        return "its kernels are not made for Windows"
    if dtype not in TYPES:
        return f"it has no kernels for {str(dtype).removeprefix('torch.')}"
    try:
        if building:
            kernels(dtype)
        else:
            _compiler()
    except OSError as error:
        return str(error)
    return None


def _compiler() -> str:
    """Return the place of the machine's C++ compiler.

    Raises:
        OSError: There is none.
    """
    for name in (os.environ.get("CXX", "c++"), "c++", "g++", "clang++"):
        if place := shutil.which(name):
            return place
    raise OSError("there is no C++ compiler")


def _fingerprint(source: Path, command: list[str]) -> str:
    """Return a hash of everything that the compiled code depends on."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    processor = [line for line in lines if line.startswith(("flags", "Features", "model name"))][:2]
    parts = [source.read_bytes(), HEADER.read_bytes(), version, repr(command).encode(), repr(processor).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


def _compile(command: list[str], library: Path) -> None:
    """Compile a library into a file, which another run may do at the same time.

    Raises:
        OSError: The compiler fails.
    """
    with atomic_path(library) as unfinished:
        try:
            done = subprocess.run(
                [*command, "-o", str(unfinished)],
                capture_output=True,
                check=False,
                timeout=COMPILER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"the compiler took more than {COMPILER_SECONDS} s") from None
        if done.returncode:
            message = done.stderr.decode(errors="replace").split("\n")[0][:200]
            raise OSError(f"the compiler failed: {message}")
