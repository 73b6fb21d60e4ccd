"""Reading models and training states; no pickle is ever opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quillgpt.checkpoint.huggingface import QUILL_KEY, from_config, from_stored
from quillgpt.checkpoint.names import BEST
from quillgpt.checkpoint.recover import find_whole_model
from quillgpt.checkpoint.save import OPTIMIZER, RAW_WEIGHTS, STATE, WEIGHTS, TrainingState
from quillgpt.data.dataset import Dataset, prepare_hint
from quillgpt.errors import CheckpointError, TokenizerError
from quillgpt.files import path_inside
from quillgpt.model import GPT, ModelShape
from quillgpt.text.corpora import RECIPES
from quillgpt.text.tokenizer import Tokenizer, load_tokenizer

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and what is known about it.

    Attributes:
        folder: The folder, or another program's file, that it was read from.
        model: The weights in float32, on the CPU, in evaluation mode.
        tokenizer: Its tokenizer.
        config: The whole config.json.
        tokenizer_spec: What `--tokenizer` means its tokenizer; None: the folder.
    """

    folder: Path
    model: GPT
    tokenizer: Tokenizer
    config: dict[str, Any]
    tokenizer_spec: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What Quill wrote into config.json; empty for a folder that another program wrote."""
        about: dict[str, Any] = self.config.get(QUILL_KEY, {})
        return about

    @property
    def starts_with_end_of_text(self) -> bool:
        """Whether the model knows end-of-text as the start of a document: it was trained so, or is pretrained."""
        return self.tokenizer.end_of_text is not None and bool(
            self.about.get("ends_documents", QUILL_KEY not in self.config)
        )

    def check_tokenizer(self, dataset: Dataset, data_dir: Path) -> None:
        """Check that a data set was prepared with this model's tokenizer.

        Raises:
            TokenizerError: It was not; names both, and the command that mends it.
        """
        if self.tokenizer.fingerprint != dataset.tokenizer.fingerprint:
            what = dataset.name if dataset.name in RECIPES else "PATH"
            hint = prepare_hint(f"{dataset.name}_2", data_dir, what=what)
            raise TokenizerError(
                f"{dataset.folder} was prepared with the tokenizer {identify(dataset.tokenizer)}, but the model in "
                f"{self.folder} has another, {identify(self.tokenizer)}; under "
                f"another name, {hint} --tokenizer {self.tokenizer_spec or self.folder}"
            )


def identify(tokenizer: Tokenizer) -> str:
    """Return what tells a tokenizer from others of its name: `char (65 tokens, fingerprint 5a5860c6)`."""
    return f"{tokenizer.name} ({tokenizer.vocab_size:,} tokens, fingerprint {tokenizer.fingerprint[:8]})"


def read_shape(folder: Path) -> tuple[ModelShape, float, dict[str, Any]]:
    """Return shape, dropout and config.json of a model folder.

    Raises:
        CheckpointError: The file is missing, no JSON, or of an unsupported kind.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{path} cannot be read") from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no JSON object; the model is damaged")
    return *from_config(config, str(path)), config


def load_model(path: Path, *, prefer: str = BEST, dropout: float | None = None, attn_path: str = "sdpa") -> LoadedModel:
    """Load a run's best checkpoint, a checkpoint, or a Hugging Face folder of our architectures.

    In place of a run's damaged checkpoint its newest whole one is loaded, with a warning that names the damage.

    Args:
        path: Any of the three.
        prefer: Which of a run's checkpoints is meant, `best` or `last`.
        dropout: Dropout for further training; None keeps the stored one.
        attn_path: Which implementation of the attention kernel to use.

    Raises:
        CheckpointError: No model is there, it is damaged, or it is of another kind.
    """
    folder = find_whole_model(path, prefer=prefer)
    shape, stored_dropout, config = read_shape(folder)
    with torch.device("meta"):
        model = GPT(shape, dropout=stored_dropout if dropout is None else dropout, attn_path=attn_path, seed=None)
    fill(model, read_weights(folder), where=str(folder))
    return LoadedModel(folder, model, load_tokenizer(folder), config)


def fill(model: GPT, stored: dict[str, Tensor], *, where: str) -> None:
    """Give a model without weights those of a stock class, in float32, and set it to evaluation.

    Args:
        model: The model, on the device `meta`.
        stored: Tensors by the names and in the layouts of the stock class; emptied.
        where: The folder's or file's path, for messages.

    Raises:
        CheckpointError: A tensor is missing, left over, or of another shape.
    """
    state = from_stored(stored, list(model.state_dict()), model.shape, where=where)
    for name, expected in model.state_dict().items():
        if name in state and state[name].shape != expected.shape:
            raise CheckpointError(
                f"{where}: {name} has the shape {tuple(state[name].shape)}, its configuration says "
                f"{tuple(expected.shape)}"
            )
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False, assign=True)
    model.tie()
    model.eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of model.safetensors, or of the parts that its index lists.

    Raises:
        CheckpointError: There are none, or a file is damaged.
    """
    files = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise CheckpointError(f"{folder / INDEX} is damaged; copy or download the model again") from None
        files = [_part(folder, name) for name in names]
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; Quill reads weights from safetensors files only")
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file} is damaged: {error}") from None
    return tensors


def _part(folder: Path, name: object) -> Path:
    file = path_inside(folder, name)
    if file is None:
        raise CheckpointError(f"{folder / INDEX} lists {name!r}, which is outside the model's folder; do not trust it")
    return file


@dataclass(frozen=True)
class StoredTraining:
    """What a checkpoint holds besides the model.

    Attributes:
        state: Where the run is.
        optimizer: What its optimizers remember, by name.
        raw_weights: The weights that are trained, by name, where those of the model are their average.
    """

    state: TrainingState
    optimizer: dict[str, Tensor]
    raw_weights: dict[str, Tensor] | None


def load_training_state(folder: Path) -> StoredTraining:
    """Return the training state of a checkpoint that `load_model` has verified.

    Raises:
        CheckpointError: The folder is a model without a training state.
    """
    if not (folder / STATE).is_file():
        raise CheckpointError(
            f"{folder} holds a model but no training state; start from it with --init_from={folder} instead of resume"
        )
    try:
        state = TrainingState(**json.loads((folder / STATE).read_text(encoding="utf-8")))
        raw_weights = load_file(folder / RAW_WEIGHTS) if (folder / RAW_WEIGHTS).is_file() else None
        return StoredTraining(state, load_file(folder / OPTIMIZER), raw_weights)
    except (OSError, ValueError, TypeError, RecursionError, SafetensorError):
        raise CheckpointError(
            f"the training state in {folder / 'training'} is damaged; start from the model with --init_from={folder}"
        ) from None
