"""nanoGPT's ckpt.pt, which its sample.py and train.py read, for models that its class can compute."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quillgpt.checkpoint import LoadedModel
from quillgpt.checkpoint.stock_classes import STOCK_CLASSES
from quillgpt.checkpoint.tensors import to_stored
from quillgpt.data.dataset import META_FILE
from quillgpt.errors import CheckpointError
from quillgpt.export.probe import QuillRuntime
from quillgpt.interop.nanogpt_checkpoint import CHECKPOINT_FILE, load_nanogpt
from quillgpt.model import ARCHITECTURES
from quillgpt.text.tokenizers.char import CharTokenizer

ARGUMENTS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")
DATASET = "exported"
"""The data set that the checkpoint names, so that nanoGPT's sample.py looks for data/exported/meta.pkl."""


def check_representable(loaded: LoadedModel) -> None:
    """Check that nanoGPT's class computes what the model does.

    Raises:
        CheckpointError: It does not, or nanoGPT has no such tokenizer; names the difference.
    """
    config = loaded.config
    needed = {
        "arch": (config.arch, "gpt2"),
        "activation": (config.activation, "gelu"),
        "tied": (config.tied, True),
        "mlp_dim": (config.mlp_dim, ARCHITECTURES["gpt2"].mlp_dim(config.n_embd)),
        "norm_eps": (config.norm_eps, ARCHITECTURES["gpt2"].norm_eps),
        "attn_type": (str(config.kernel), "SM"),
    }
    for name, (actual, expected) in needed.items():
        if actual != expected:
            raise CheckpointError(f"nanoGPT's model has {name} = {expected}, {loaded.folder} has {name} = {actual}")
    if not isinstance(loaded.tokenizer, CharTokenizer) and loaded.tokenizer.name != "gpt2":
        raise CheckpointError(
            f"nanoGPT knows tokenizers by characters and GPT-2's, {loaded.folder} has {loaded.tokenizer.name}"
        )


def write(loaded: LoadedModel, folder: Path, _number_type: str) -> None:
    """Write ckpt.pt and, if the tokenizer is char, the meta.pkl of its data set.

    Both are pickles, as nanoGPT reads them; they hold tensors and plain values only.
    """
    config, tokenizer = loaded.config, loaded.tokenizer
    stored = to_stored(loaded.model.state_dict(), config)
    weights = {
        name: tensor.T.contiguous() if STOCK_CLASSES["gpt2"].stores_transposed(name) else tensor
        for name, tensor in stored.items()
        if config.bias or not name.endswith(".bias")
    }
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    arguments = {name: getattr(config, name) for name in ARGUMENTS}
    content = {
        "model": weights,
        "model_args": {**arguments, "dropout": loaded.dropout},
        "iter_num": int(loaded.about.get("iteration", 0)),
        "best_val_loss": 1e9,  # train.py compares its losses with this, so its first evaluation is the best so far
        "optimizer": fresh_optimizer(weights),
        "config": {"dataset": DATASET},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / CHECKPOINT_FILE)
    if isinstance(tokenizer, CharTokenizer):
        itos = dict(enumerate(tokenizer.characters))
        meta = {"vocab_size": len(itos), "itos": itos, "stoi": {character: id for id, character in itos.items()}}
        (folder / META_FILE).write_bytes(pickle.dumps(meta))


def fresh_optimizer(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Return the state of an optimizer before its first step, with the parameter groups of nanoGPT's train.py."""
    own = [tensor for name, tensor in weights.items() if name != "lm_head.weight"]  # tied, so it is no parameter
    groups = [[tensor for tensor in own if tensor.ndim >= 2], [tensor for tensor in own if tensor.ndim < 2]]
    parameters = [{"params": [torch.nn.Parameter(tensor) for tensor in group]} for group in groups]
    state: dict[str, Any] = torch.optim.AdamW(parameters, fused=False).state_dict()
    return state


def open_exported(folder: Path) -> QuillRuntime:
    """Open the files with Quill's own reader of nanoGPT's checkpoints: nanoGPT is no package that could be run."""
    loaded = load_nanogpt(folder / CHECKPOINT_FILE, data_dir=folder)
    return QuillRuntime("Quill's reader of nanoGPT's files", loaded.model, loaded.tokenizer)
