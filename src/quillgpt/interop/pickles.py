"""Checkpoints that are pickles: read as data, within bounds, and without running what they may ask for.

torch's loader for weights builds plain values and tensors only. What a file names is looked at before, because that
loader also calls some functions of torch's own that take any amount of memory. Objects of a few harmless classes, such
as a dataclass of settings or a path, are taken as plain fields.
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
"""How weights of another program are written so that Quill reads them."""

NEEDED = re.compile(
    r"collections\.(OrderedDict|Counter)|builtins\.(set|complex)|_codecs\.encode"
    r"|torch\.(Size|device|serialization\._get_layout|nn\.parameter\.Parameter|[A-Z][a-zA-Z0-9]*Storage)"
    r"|torch\.(bool|uint8|int8|int16|int32|int64|bfloat16|float16|float32|float64)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter|parameter_with_state|sparse_tensor)"
)
"""What tensors and plain values need; none of it takes more memory than the file gives reason for."""

HARMLESS = re.compile(
    r"[\w.]+\.GPTConfig|pathlib(\._local)?\.\w*Path|argparse\.Namespace"
    r"|numpy\.(dtype|_?core\.multiarray\.(scalar|_reconstruct)|ndarray)"
)
"""Objects without which a checkpoint can be read: their fields are kept as they are."""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
LARGEST_PICKLE = 1 << 26
"""Bytes of names and numbers that a checkpoint has at most; its tensors are apart from them."""

PARTS_OF_OLD_FILES = 4
"""Before 2020 a file was several pickles: a number, a version, the system, the content; then the tensors."""


class Fields:
    """Stands for an object of another program's class; what the file says of it becomes attributes."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        """Keep what the file says of the object."""
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_pickle(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises:
        CheckpointError: It wants to run something, is damaged, would fill the memory, or is no checkpoint.
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
    except Exception as error:  # of a file that is no pickle, anything may be raised
        if not foreign:
            raise damaged(file, error) from None
    harmless = {name for name in foreign if HARMLESS.fullmatch(name)}
    if foreign - harmless:
        raise CheckpointError(f"{file} {refusal(sorted(foreign - harmless))}")
    stand_ins: list[Any] = [(type(name, (Fields,), {}), name) for name in sorted(harmless)]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stand_ins):  # of old formats
            # Mapped where the format allows it: the optimizer's state, two thirds of the file, is then never read.
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a pickle that is damaged or meant to do harm may raise nearly anything
        raise damaged(file, error) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is no checkpoint of nanoGPT: it holds no dictionary with model and model_args")
    return content


def damaged(file: Path, error: Exception) -> CheckpointError:
    """Return what to say of a file that cannot be read."""
    return CheckpointError(
        f"{file} is damaged, or no checkpoint of nanoGPT: torch cannot read it as weights "
        f"({type(error).__name__}); copy it again"
    )


def refusal(names: list[str]) -> str:
    """Return why what a file names is not read: it belongs to a program, or could do anything."""
    own = [name for name in names if is_own_class(name)]
    if own == names:
        listed = ", ".join(own[:3])
        return (
            f"holds objects of another program ({listed}), which only that program can read; nothing of it was run. "
            f"In that program, save its weights as plain values: {PLAIN}"
        )
    wanted = next(name for name in names if name not in own)
    return (
        f"is not plain data: it wants to run {wanted}. Nothing was run; a checkpoint of nanoGPT holds tensors and "
        "plain values only, so do not trust this one"
    )


def is_own_class(name: str) -> bool:
    """Say whether a name looks like a class of somebody's program, and not like a function or a part of Python."""
    module, _, last = name.rpartition(".")
    outside = module.split(".")[0] not in sys.stdlib_module_names | {"torch"} or module.startswith("torch.nn.modules")
    return outside and last[:1].isupper()


def zipped_names(file: Path) -> Iterator[str]:
    """Yield the names that a file of today's format refers to, after checking that nothing in it unfolds.

    Raises:
        CheckpointError: It has compressed parts, or belongs to TorchScript.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise CheckpointError(
                f"{file} is a program of TorchScript, which is not run here; save the weights of the model that it was "
                f"made from: {PLAIN}"
            )
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise CheckpointError(
                f"{file} has compressed parts, which torch.save never writes; unpack it, and save it with torch.save"
            )
        content = next(part for part in parts if part.filename.endswith("/data.pkl"))
        if content.file_size > LARGEST_PICKLE:
            raise CheckpointError(
                f"{file} has {content.file_size:,} bytes of names and numbers beside its tensors; expected at most "
                f"{LARGEST_PICKLE:,}"
            )
        yield from names_in(io.BytesIO(archive.read(content)))


def plain_names(file: Path) -> Iterator[str]:
    """Yield the names that a file of the older format refers to; of anything else, those that it shows."""
    with file.open("rb") as opened:
        for _ in range(PARTS_OF_OLD_FILES):
            yield from names_in(opened)


def names_in(pickle: BinaryIO) -> Iterator[str]:
    """Yield each function or class that a pickle refers to; what is left is read up to its end."""
    texts = ["?", "?"]
    for operation, value, _ in pickletools.genops(pickle):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(value).partition(" ")
            yield f"{OLD_NAMES.get(module, module)}.{name}"
        elif operation.name == "STACK_GLOBAL":
            yield ".".join(texts)
        elif isinstance(value, str):
            texts = [texts[1], value]
