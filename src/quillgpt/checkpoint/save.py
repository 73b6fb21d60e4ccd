"""Writing a checkpoint: all files into a temporary folder, the manifest last, then one rename."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from torch import Tensor

from quillgpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_config, adapter_tensors
from quillgpt.checkpoint.card import model_card
from quillgpt.checkpoint.config_json import to_config_json
from quillgpt.checkpoint.manifest import CARD, write_manifest
from quillgpt.checkpoint.names import UNFINISHED, checkpoints_folder, iteration_name, take_name
from quillgpt.checkpoint.state import STATE, TrainingState
from quillgpt.checkpoint.tensor_file import NamedTensors, TensorFile, all_of
from quillgpt.checkpoint.tensors import stored_tensors
from quillgpt.checkpoint.weights import WEIGHTS
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.shards import whole
from quillgpt.files import flush_to_disk, let_others_read, write_json, write_text
from quillgpt.model import GPT, merged_tensors
from quillgpt.ownership import remove_own
from quillgpt.text.tokenizers.tokenizer import Tokenizer

OPTIMIZER = "training/optimizer.safetensors"
RAW_WEIGHTS = "training/weights.safetensors"
"""The trained weights, if the model has their average or has adapters merged in."""

OWN_TEACHERS = "training/teachers.safetensors"
"""The weights of the teachers that the run has trained, by `number/name`, if there are any."""

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
    own_teachers: Sequence[Mapping[str, Tensor]] = (),
    adapter_base: str = "",
    world: World = ALONE,
) -> Path:
    """Write a checkpoint of a run under the name of its iteration, and return its folder.

    The folder appears complete or not at all. All ranks call this together, and rank 0 writes. Tensors that the ranks
    hold in parts are gathered one by one, so no rank ever holds all of them.

    Args:
        out_dir: The run's folder.
        model: The model to evaluate and sample from.
        tokenizer: Its tokenizer.
        about: As in `save_model`.
        optimizer: The tensors of the optimizers' states, by name.
        state: The progress of the run.
        raw_weights: The trained weights, by their names in the model, if the model has their average or has adapters
            merged in.
        own_teachers: The weights of the teachers that the run has trained, by their names in the model.
        adapter_base: The name under which other programs know the base model of the adapters, if there are any.
        world: The processes that train together.

    Raises:
        OSError: The disk is full or cannot be written to; on rank 0, after all have gathered what it did not write.
    """
    contents = {WEIGHTS: weights_of(model), OPTIMIZER: all_of(optimizer)}
    if raw_weights is not None:
        contents[RAW_WEIGHTS] = all_of(raw_weights)
    if own_teachers:
        contents[OWN_TEACHERS] = all_of(
            {f"{number}/{name}": tensor for number, own in enumerate(own_teachers) for name, tensor in own.items()}
        )
    adapter = adapter_config(model, adapter_base)
    if adapter is not None:
        contents[ADAPTER_WEIGHTS] = adapter_tensors(model)
    files = {name: TensorFile(tensors, whole) for name, tensors in contents.items()}
    final = checkpoints_folder(out_dir) / iteration_name(state.iteration)
    try:
        if world.is_main:
            with _complete_folder(final, sum(file.content_bytes for file in files.values())) as folder:
                describe_model(folder, model, tokenizer, about=about)
                for name, file in files.items():
                    (folder / name).parent.mkdir(exist_ok=True)
                    file.write(folder / name)
                if adapter is not None:
                    write_json(folder / ADAPTER_CONFIG, adapter)
                write_json(folder / STATE, state.model_dump())
                write_text(folder / CARD, card_of_checkpoint(model, about=about, state=state))
    finally:
        for file in files.values():
            file.skip()
    return final


def card_of_checkpoint(model: GPT, *, about: dict[str, Any], state: TrainingState) -> str:
    """Return the card of a checkpoint, with what its run has reached so far."""
    best = {"best_val_loss": state.best_val_loss, "best_iter": state.best_iteration}
    results = {name: value for name, value in best.items() if value is not None}
    results |= {"iterations": state.iteration, "tokens": state.tokens}
    count = model.parameter_count()
    return model_card(model.config, about=about, parameters=count, settings=state.settings, results=results)


@contextmanager
def _complete_folder(final: Path, content_bytes: int) -> Iterator[Path]:
    """Yield a folder for the files of a checkpoint, and give it its name once it has a manifest and is on the disk."""
    parent = final.parent
    parent.mkdir(parents=True, exist_ok=True)
    check_space(parent, content_bytes + SMALL_FILES_BYTES)
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        yield temporary
        for path in temporary.rglob("*"):
            flush_to_disk(path)
        write_manifest(temporary)
        let_others_read(temporary)
        take_name(temporary, final)
        flush_to_disk(parent)
    finally:
        remove_own(temporary)


def check_space(folder: Path, needed: int) -> None:
    """Check that the disk of a folder has enough free space.

    Raises:
        OSError: It has not; the message says how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it takes {decimal(needed)}, the disk has {decimal(free)} left")
