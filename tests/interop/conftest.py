"""Files in the layout of nanoGPT's train.py, written with torch.save as it does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

LETTERS = "\n !.abcdefgh"
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": len(LETTERS)}

Write = Callable[..., Path]


def random_weights(*, n_layer: int, n_embd: int, block_size: int, vocab_size: int, bias: bool, **_: Any) -> Any:
    """Return the tensors of nanoGPT's model by their names, drawn at random; the head is the token embedding."""
    generator = torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator) * 0.3

    matrices = {"wte": (vocab_size, n_embd), "wpe": (block_size, n_embd)}
    vectors = {"ln_f": n_embd}
    for layer in range(n_layer):
        for name, times_out, times_in in [
            ("attn.c_attn", 3, 1),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 4, 1),
            ("mlp.c_proj", 1, 4),
        ]:
            matrices[f"h.{layer}.{name}"] = (times_out * n_embd, times_in * n_embd)
        vectors |= {f"h.{layer}.ln_1": n_embd, f"h.{layer}.ln_2": n_embd}
    weights = {f"transformer.{name}.weight": draw(*size) for name, size in matrices.items()}
    weights |= {f"transformer.{name}.weight": 1 + draw(size) for name, size in vectors.items()}
    if bias:
        biased = {name: size[0] for name, size in matrices.items() if name.startswith("h.")} | vectors
        weights |= {f"transformer.{name}.bias": draw(size) for name, size in biased.items()}
    return weights | {"lm_head.weight": weights["transformer.wte.weight"]}


def checkpoint(
    *, bias: bool = False, prefix: str = "", dataset: str | None = "letters", **sizes: int
) -> dict[str, Any]:
    """Return what nanoGPT saves: a real optimizer's state, and a loss that is a tensor."""
    arguments = SIZES | sizes | {"bias": bias}
    weights = random_weights(**arguments)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "model": {prefix + name: tensor for name, tensor in weights.items()},
        "optimizer": optimizer.state_dict(),
        "model_args": arguments | {"dropout": 0.1},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.25),
        "config": {"out_dir": "out", "wandb_log": False, "beta1": 0.9, "dataset": dataset} if dataset else {},
    }


def write_meta(folder: Path, characters: str = LETTERS, **more: Any) -> Path:
    """Write nanoGPT's table of characters."""
    folder.mkdir(parents=True, exist_ok=True)
    table = dict(enumerate(characters))
    meta = {"vocab_size": len(table), "itos": table, "stoi": {c: i for i, c in table.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta | more))
    return folder / "meta.pkl"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write `out/ckpt.pt` with some changes of its content, and beside it, unless told otherwise, its meta.pkl."""

    def write_checkpoint(content: Any = None, *, meta: bool = True, zipped: bool = True, **options: Any) -> Path:
        file = tmp_path / "out" / "ckpt.pt"
        file.parent.mkdir(exist_ok=True)
        torch.save(checkpoint(**options) if content is None else content, file, _use_new_zipfile_serialization=zipped)
        if meta:
            write_meta(file.parent)
        return file

    return write_checkpoint
