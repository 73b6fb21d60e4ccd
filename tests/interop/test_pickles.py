"""Checkpoints that would fill the memory are refused before anything is allocated."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import checkpoint
from .test_nanogpt_checkpoint import refuses

HUGE = 1 << 40


def packed(file: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a checkpoint's archive again, with its parts changed."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, part in parts.items():
            archive.writestr(name, change(name, part))


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_larger_than_their_file_are_refused(zipped: bool, write: Any) -> None:
    content = checkpoint()
    content["model"]["transformer.wte.weight"] = torch.ones(1).expand(HUGE)
    refuses(write(content, zipped=zipped), "its tensors would have 4,398,046,5", "the file has")


def test_one_storage_behind_many_tensors_is_refused(write: Any) -> None:
    large = torch.ones(20_000)
    content = checkpoint() | {"model": {f"layer.{number}": large for number in range(1000)}}
    refuses(write(content), "its tensors would have 80,000,000 bytes")


def test_compressed_parts_are_refused(write: Any) -> None:
    file = write()
    packed(file, lambda _, part: part, zipfile.ZIP_DEFLATED)
    refuses(file, "has compressed parts")


def test_names_and_numbers_without_end_are_refused(write: Any) -> None:
    file = write()
    packed(file, lambda name, part: part + bytes(1 << 26) if name.endswith("data.pkl") else part)
    refuses(file, "bytes of names and numbers besides its tensors")


class Calls:
    """A value whose unpickling calls something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        Calls(bytearray, HUGE),
        Calls(torch.UntypedStorage, HUGE),
        Calls(torch._utils._rebuild_meta_tensor_no_storage, torch.float32, (HUGE,), (1,), False),
        Calls(torch._utils._rebuild_device_tensor_from_numpy, 1, torch.float32, "cpu", False),
        Calls(eval, "1"),
        Calls(getattr, "a", "b"),
    ],
)
def test_functions_that_no_tensor_needs_are_not_called(call: Calls, zipped: bool, write: Any) -> None:
    file = write(checkpoint() | {"extra": call}, zipped=zipped)
    refuses(file, "is not plain data: it wants to run", call.call[0].__name__)


def test_a_pickle_of_another_protocol_is_looked_through(write: Any) -> None:
    file = write()
    file.write_bytes(pickle.dumps({"model": Calls(eval, "1")}, protocol=5))
    refuses(file, "it wants to run builtins.eval")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02r\xff\xff\xff\xff.",  # LONG_BINPUT of nothing
        b"\x80\x02X\xff\xff\xff\x7fa.",  # a text of 2 GB that is not there
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.",  # one of 9 EB
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a number of 2 GB
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
    ],
)
def test_a_pickle_of_a_few_bytes_costs_little(pickled: bytes, write: Any) -> None:
    file = write()
    file.write_bytes(pickled)
    refuses(file, "damaged, or not a checkpoint")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("ckpt/data.pkl", pickled)
    file.write_bytes(buffer.getvalue())
    refuses(file, "damaged, or not a checkpoint")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_of_torchscript_is_called_that(write: Any) -> None:
    file = write()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    refuses(file, "is a TorchScript program", "torch.save({")
