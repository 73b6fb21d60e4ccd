"""Reading checkpoints that are pickles as data, within bounds and without running code.

torch.load with weights_only builds tensors and plain values only. But it also calls some functions of torch that can
take any amount of memory, so the names in a file are checked first. Objects of a few harmless classes, such as a
dataclass of settings or a path, are read as plain fields.
"""

from __future__ import annotations

import io
import pickletools
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from quillgpt.errors import GIT_LFS_POINTER, CheckpointError, check_is_no_pointer

PLAIN = (
    'torch.save({"model": model.state_dict(), "model_args": dict(n_layer=..., n_head=..., n_embd=..., block_size=..., '
    'vocab_size=..., bias=...)}, "ckpt.pt")'
)
"""How another program saves its weights so that Quill can read them."""

NEEDED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|serialization\._get_layout|nn\.parameter\.Parameter|[A-Z][a-zA-Z0-9]*Storage)"
    r"|torch\.(bool|uint8|int8|int16|int32|int64|bfloat16|float16|float32|float64)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state|sparse_tensor)"
)
"""The names that tensors and plain values need; none of them takes much more memory than the file has bytes."""

HARMLESS = re.compile(
    r"[\w.]+\.GPTConfig|pathlib(\._local)?\.\w*Path|argparse\.Namespace"
    r"|numpy\.(dtype|_?core\.multiarray\.(scalar|_reconstruct)|ndarray)"
)
"""The classes of objects that are read as plain fields."""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
LARGEST_PICKLE = 1 << 26
"""The most bytes of names and numbers in a checkpoint; tensors are stored separately."""

PARTS_OF_OLD_FILES = 4
"""The format before 2020 has several pickles: a magic number, a version, the system, the content; then tensors."""


class Fields:
    """Stands in for an object of another program's class; its state becomes attributes."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        """Keep the object's state as attributes."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_pickle(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises:
        CheckpointError: It contains code, is damaged, would fill the memory, or is not a checkpoint.
    """
    foreign: set[str] = set()
    try:
        with file.open("rb") as opened:
            check_is_no_pointer(opened.read(len(GIT_LFS_POINTER)), file, CheckpointError)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); copy it again") from None
    try:
        zipped = zipfile.is_zipfile(file)
        for name in zipped_names(file) if zipped else plain_names(file):
            if not NEEDED.fullmatch(name):
                foreign.add(name)
    except CheckpointError:
        raise
    except Exception as error:  # a file that is not a pickle may raise anything
        if not foreign:
            raise damaged(file, error) from None
    harmless = {name for name in foreign if HARMLESS.fullmatch(name)}
    if foreign - harmless:
        raise CheckpointError(f"{file} {refusal(sorted(foreign - harmless))}")
    stand_ins: list[Any] = [(type(name, (Fields,), {}), name) for name in sorted(harmless)]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stand_ins):  # of old formats
            # Mapped if the format allows it; then the optimizer's state, two thirds of the file, is never read.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged or malicious pickle may raise nearly anything
        raise damaged(file, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a checkpoint of nanoGPT: it has no dictionary with model and model_args")
    return content


def damaged(file: Path, error: Exception) -> CheckpointError:
    """Return the error for a file that cannot be read."""
    return CheckpointError(
        f"{file} is damaged, or not a checkpoint of nanoGPT: torch cannot read it as weights "
        f"({type(error).__name__}); copy it again"
    )


def refusal(names: list[str]) -> str:
    """Return why a file is not read: it needs classes of another program, or could run code."""
    own_classes = [name for name in names if is_own_class(name)]
    if own_classes == names:
        listed = ", ".join(own_classes[:3])
        return (
            f"has objects of another program ({listed}), which only that program can read; no code of it was run. "
            f"In that program, save its weights as plain values: {PLAIN}"
        )
    wanted = next(name for name in names if name not in own_classes)
    return (
        f"is not plain data: it wants to run {wanted}. Nothing was run; a checkpoint of nanoGPT has tensors and "
        "plain values only, so do not trust this one"
    )


def is_own_class(name: str) -> bool:
    """Whether a name looks like a class of another program, and not like a function or a part of Python or torch."""
    module, _, last = name.rpartition(".")
    outside = module.split(".")[0] not in sys.stdlib_module_names | {"torch"} or module.startswith("torch.nn.modules")
    return outside and last[:1].isupper()


def zipped_names(file: Path) -> Iterator[str]:
    """Yield the names that a file of the zip format refers to, after checking that nothing in it is compressed.

    Raises:
        CheckpointError: It has compressed parts, or is a TorchScript program.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise CheckpointError(
                f"{file} is a TorchScript program, which Quill does not run; save the weights of the original model: "
                f"{PLAIN}"
            )
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise CheckpointError(
                f"{file} has compressed parts, which torch.save never writes; unpack it, and save it with torch.save"
            )
        content = next(part for part in parts if part.filename.endswith("/data.pkl"))
        if content.file_size > LARGEST_PICKLE:
            raise CheckpointError(
                f"{file} has {content.file_size:,} bytes of names and numbers besides its tensors; expected at most "
                f"{LARGEST_PICKLE:,}"
            )
        yield from names_in(io.BytesIO(archive.read(content)))


def plain_names(file: Path) -> Iterator[str]:
    """Yield the names that a file of the old format refers to."""
    with file.open("rb") as opened:
        for _ in range(PARTS_OF_OLD_FILES):
            yield from names_in(opened)


def names_in(pickle: BinaryIO) -> Iterator[str]:
    """Yield the names of the functions and classes that a pickle refers to; leave the file at its end."""
    texts = ["?", "?"]
    for operation, value, _ in pickletools.genops(pickle):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(value).partition(" ")
            yield f"{OLD_NAMES.get(module, module)}.{name}"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif isinstance(value, str):
            texts = [texts[1], value]
