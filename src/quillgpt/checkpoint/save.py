"""Writing a checkpoint: everything into a temporary folder, the manifest last, then one rename."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quillgpt.checkpoint.adapter import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, to_peft
from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.checkpoint.manifest import write_manifest
from quillgpt.checkpoint.names import UNFINISHED, checkpoints_folder, iteration_name, take_name
from quillgpt.checkpoint.state import STATE, TrainingState
from quillgpt.checkpoint.tensors import to_stored
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.files import flush_to_disk, let_others_read, write_json
from quillgpt.model import GPT, merged_state
from quillgpt.model.cost import FLOAT32_BYTES
from quillgpt.ownership import remove_own
from quillgpt.text.tokenizers.tokenizer import Tokenizer

OPTIMIZER = "training/optimizer.safetensors"
RAW_WEIGHTS = "training/weights.safetensors"
"""The weights that are trained, where those of the model are an average of them, or have them merged."""

SMALL_FILES_BYTES = 2 << 20
"""Room for what is no tensor: tokenizer, configuration, state."""


def save_model(folder: Path, model: GPT, tokenizer: Tokenizer, *, about: dict[str, Any]) -> None:
    """Write a model as a Hugging Face folder.

    Args:
        folder: Where to; made if need be.
        model: The model.
        tokenizer: Its tokenizer.
        about: What our key in config.json says besides: where the model came from, whether documents end in
            end-of-text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    end_of_text = tokenizer.end_of_text
    config = to_config_json(model.config, dropout=model.dropout, end_of_text=end_of_text)
    config["quill"] |= about
    write_json(folder / "config.json", config)
    generation: dict[str, Any] = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    padding = list(range(tokenizer.vocab_size, model.config.vocab_size))
    if padding:
        generation["suppress_tokens"] = padding  # rows without a token are never sampled, in transformers neither
    write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
    write_tensors(to_stored(merged_state(model), model.config), folder / WEIGHTS)
    tokenizer.save(folder)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The disk does not take it; safetensors' own error has the system's only in its words.
    """
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
    let_others_read(path)


def save_checkpoint(
    out_dir: Path,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    about: dict[str, Any],
    optimizer: dict[str, Tensor],
    state: TrainingState,
    raw_weights: dict[str, Tensor] | None = None,
    adapter_base: str = "",
) -> Path:
    """Write a checkpoint of a run under its iteration's name, and return its folder.

    The folder appears whole or not at all.

    Args:
        out_dir: The run's folder.
        model: The model that is evaluated and sampled from.
        tokenizer: Its tokenizer.
        about: As in `save_model`.
        optimizer: The optimizer's tensors by name.
        state: Where the run is.
        raw_weights: The weights that are trained, by their names in the model, where they are not those of the
            checkpoint's model: it is their average, or has them merged.
        adapter_base: What other programs call the model that the adapters belong to, where there are some.

    Raises:
        OSError: The disk has no room for it, or does not take it.
    """
    parent = checkpoints_folder(out_dir)
    parent.mkdir(parents=True, exist_ok=True)
    tensors = {OPTIMIZER: optimizer} | ({} if raw_weights is None else {RAW_WEIGHTS: raw_weights})
    check_space(parent, checkpoint_bytes(model, tensors.values()))
    final = parent / iteration_name(state.iteration)
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        save_model(temporary, model, tokenizer, about=about)
        if (adapter := to_peft(model, adapter_base)) is not None:
            (temporary / ADAPTER).mkdir()
            write_tensors(adapter[0], temporary / ADAPTER / ADAPTER_WEIGHTS)
            write_json(temporary / ADAPTER / ADAPTER_CONFIG, adapter[1])
        (temporary / "training").mkdir()
        for name, named in tensors.items():
            write_tensors({key: value.detach().cpu().contiguous() for key, value in named.items()}, temporary / name)
        write_json(temporary / STATE, state.model_dump())
        for path in temporary.rglob("*"):
            flush_to_disk(path)
        write_manifest(temporary)
        let_others_read(temporary)
        take_name(temporary, final)
        flush_to_disk(parent)
    finally:
        remove_own(temporary)
    return final


def checkpoint_bytes(model: GPT, others: Iterable[dict[str, Tensor]]) -> int:
    """Return the bytes of a model and of the other tensors of its checkpoint, with room for small files."""
    weights = FLOAT32_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return weights + sum(tensor.nbytes for named in others for tensor in named.values()) + SMALL_FILES_BYTES


def check_space(folder: Path, needed: int) -> None:
    """Check that a folder's disk has so many bytes left.

    Raises:
        OSError: It has not; the reason says how many are needed and how many are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {needed / 1e6:,.1f} MB, the disk has {free / 1e6:,.1f} MB left")
