"""Writing a checkpoint: all files into a temporary folder, the manifest last, then one rename."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.filesize import decimal
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
"""The trained weights, if the model has their average or has adapters merged in."""

SMALL_FILES_BYTES = 2 << 20
"""Space for the files without tensors: tokenizer, configuration, state."""


def save_model(folder: Path, model: GPT, tokenizer: Tokenizer, *, about: dict[str, Any]) -> None:
    """Write a model as a Hugging Face folder.

    Args:
        folder: The folder; it is created if it does not exist.
        model: The model.
        tokenizer: Its tokenizer.
        about: Further values of Quill's entry in config.json: where the model comes from, whether documents end in
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
        generation["suppress_tokens"] = padding  # transformers must not sample rows without a token either
    write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
    write_tensors(to_stored(merged_state(model), model.config), folder / WEIGHTS)
    tokenizer.save(folder)


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The system refuses to write; safetensors has the system's error only in its message.
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
    """Write a checkpoint of a run under the name of its iteration, and return its folder.

    The folder appears complete or not at all.

    Args:
        out_dir: The run's folder.
        model: The model to evaluate and sample from.
        tokenizer: Its tokenizer.
        about: As in `save_model`.
        optimizer: The tensors of the optimizers' states, by name.
        state: The progress of the run.
        raw_weights: The trained weights, by their names in the model, if the model has their average or has adapters
            merged in.
        adapter_base: The name under which other programs know the base model of the adapters, if there are any.

    Raises:
        OSError: The disk is full or cannot be written to.
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
    """Return the size of a checkpoint in bytes: the model, the other tensors, and space for small files."""
    weights = FLOAT32_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return weights + sum(tensor.nbytes for named in others for tensor in named.values()) + SMALL_FILES_BYTES


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has enough free space.

    Raises:
        OSError: It has not; the message says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {decimal(needed)}, the disk has {decimal(free)} left")
