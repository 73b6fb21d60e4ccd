"""Whatever a checkpoint of another program holds: a model that writes, or one clear line."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from fuzzing import damage, fuzz, mutate, only_user_errors, randoms
from interop.conftest import checkpoint, write_meta
from interop.test_layouts import adapters, lightning, with_kernel
from quillgpt.api import Model
from quillgpt.interop import open_model

CPU = torch.device("cpu")


def with_adapters() -> dict[str, Any]:
    content = with_kernel("GK", add_lora=True)
    return content | {"model": content["model"] | adapters()}


LAYOUTS = (checkpoint, lightning, with_adapters, lambda: with_kernel("GK", bias=False))


@pytest.fixture(scope="module")
def contents() -> list[dict[str, Any]]:
    return [make() for make in LAYOUTS]


def use(file: Path) -> None:
    """Open a checkpoint, and let it write."""
    with only_user_errors():
        model = Model(open_model(file, data_dir=file.parent), CPU, torch.float32)
        assert len(model.generate("\n", max_new_tokens=3, temperature=0)[0].ids) == 3


@fuzz(60, random=randoms)
def test_a_changed_pickle(contents: list[dict[str, Any]], tmp_path: Path, random: Random) -> None:
    write_meta(tmp_path)
    torch.save(
        mutate(random.choice(contents), random),
        tmp_path / "ckpt.pt",
        _use_new_zipfile_serialization=random.random() < 0.5,
    )
    use(tmp_path / "ckpt.pt")


@fuzz(60, random=randoms)
def test_a_damaged_pickle(contents: list[dict[str, Any]], tmp_path: Path, random: Random) -> None:
    write_meta(tmp_path)
    file = tmp_path / "ckpt.pt"
    torch.save(random.choice(contents), file, _use_new_zipfile_serialization=random.random() < 0.5)
    file.write_bytes(damage(file.read_bytes(), random))
    use(file)
