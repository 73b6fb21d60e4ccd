"""Writing a checkpoint: all files into a temporary folder, the manifest last, then one rename."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from torch import Tensor

from quillgpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, adapter_tensors
from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.checkpoint.manifest import write_manifest
from quillgpt.checkpoint.names import UNFINISHED, checkpoints_folder, iteration_name, take_name
from quillgpt.checkpoint.state import STATE, TrainingState
from quillgpt.checkpoint.tensor_file import NamedTensors, TensorFile, all_of
from quillgpt.checkpoint.tensors import stored_tensors
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.files import flush_to_disk, let_others_read, write_json
from quillgpt.model import GPT, merged_tensors
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
    describe_model(folder, model, tokenizer, about=about)
    TensorFile(weights_of(model)).write(folder / WEIGHTS)


def describe_model(folder: Path, model: GPT, tokenizer: Tokenizer, *, about: dict[str, Any]) -> None:
    """Write the files of a model's folder that hold no tensors; arguments are those of `save_model`."""
    end_of_text = tokenizer.end_of_text
    config = to_config_json(model.config, dropout=model.dropout, end_of_text=end_of_text)
    config["quill"] |= about
    write_json(folder / "config.json", config)
    generation: dict[str, Any] = {"bos_token_id": end_of_text, "eos_token_id": end_of_text, "pad_token_id": end_of_text}
    padding = list(range(tokenizer.vocab_size, model.config.vocab_size))
    if padding:
        generation["suppress_tokens"] = padding  # transformers must not sample rows without a token either
    write_json(folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None})
    tokenizer.save(folder)


def weights_of(model: GPT) -> NamedTensors:
    """Return the tensors of a model's file of weights: those of the stock class, with adapters merged in."""
    return lambda read: stored_tensors(merged_tensors(model, read), model.config)


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
    contents = {WEIGHTS: weights_of(model), OPTIMIZER: all_of(optimizer)}
    if raw_weights is not None:
        contents[RAW_WEIGHTS] = all_of(raw_weights)
    adapter = adapter_config(model, adapter_base)
    if adapter is not None:
        contents[ADAPTER_WEIGHTS] = adapter_tensors(model)
    files = {name: TensorFile(tensors) for name, tensors in contents.items()}
    check_space(parent, sum(file.content_bytes for file in files.values()) + SMALL_FILES_BYTES)
    final = parent / iteration_name(state.iteration)
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        describe_model(temporary, model, tokenizer, about=about)
        for name, file in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            file.write(temporary / name)
        if adapter is not None:
            write_json(temporary / ADAPTER_CONFIG, adapter)
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


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has enough free space.

    Raises:
        OSError: It has not; the message says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {decimal(needed)}, the disk has {decimal(free)} left")
