"""Loading models and training states; a pickle is never opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from quillgpt.attention import KernelSpec
from quillgpt.checkpoint.config_json import from_config_json
from quillgpt.checkpoint.names import BEST, LAST, iteration_of
from quillgpt.checkpoint.recover import read_whole_model
from quillgpt.checkpoint.save import OPTIMIZER, OWN_TEACHERS, RAW_WEIGHTS
from quillgpt.checkpoint.state import STATE, TrainingState
from quillgpt.checkpoint.stock_classes import QUILL_KEY
from quillgpt.checkpoint.tensors import check_stored, our_tensor, stored_parts, with_prefix
from quillgpt.checkpoint.weights import StoredWeights, open_tensors, weight_files
from quillgpt.console import warn
from quillgpt.data.dataset import Dataset, prepare_hint
from quillgpt.errors import CheckpointError, TokenizerError, cut, shorten
from quillgpt.model import GPT, Form, GPTConfig, StoredTable, empty_model, read_into
from quillgpt.records import read_record
from quillgpt.text.sources.corpora import RECIPES
from quillgpt.text.tokenizers.tokenizer import Tokenizer, load_tokenizer

QUANTIZED_BY = ("quantize_config.json", "quant_config.json")
"""Files in which older versions of GPTQ and AWQ said that a model is quantized."""

EMBEDDING = "token_embedding.weight"


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer and metadata; the weights are read when they are needed.

    Attributes:
        folder: The folder, or the file of another program, that it was read from.
        config: The model's configuration.
        dropout: The dropout for further training.
        weights: The tensors, by the names and in the layouts of the transformers class; they have been checked.
        tokenizer: Its tokenizer.
        config_json: The whole config.json.
        tokenizer_spec: The value of `--tokenizer` that gives its tokenizer; None if that is the folder.
        attn_path: The implementation of the attention kernel; `auto` is the kernel's first one.
    """

    folder: Path
    config: GPTConfig
    dropout: float
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer
    config_json: dict[str, Any]
    tokenizer_spec: str | None = None
    attn_path: str = "auto"

    @cached_property
    def model(self) -> GPT:
        """The model in float32, on the CPU, in evaluation mode."""
        return self.build()

    def build(self, form: Form | None = None) -> GPT:
        """Return the model on the CPU, in evaluation mode.

        Args:
            form: Converts each part as soon as it has its weights, as `inference_form` does, so that only one part is
                in float32 at a time. None keeps everything in float32.

        Raises:
            CheckpointError: A file was changed or removed after the model was opened.
        """

        def read(name: str) -> Tensor:
            tensor = our_tensor(name, self.weights, self.config)
            if form is None:
                return tensor.float()
            if name == EMBEDDING:
                return tensor  # only a few of its rows are used
            # A mapped vector would keep the pages around it in memory.
            return tensor.float().clone() if tensor.ndim == 1 else tensor.float()

        model = self.skeleton()
        read_into(model, read, form)
        if form is not None and model.device.type == "cpu" and isinstance(self.weights, StoredWeights):
            rows = self.weights.rows(stored_parts(EMBEDDING, self.config)[0].name)
            model.set_submodule("token_embedding", StoredTable(rows))
        return model.eval()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors of the model by name, in float32, on the CPU; each is read when it is its turn."""
        for name in self.skeleton().state_dict():
            if name != "head.weight" or not self.config.tied:
                yield name, our_tensor(name, self.weights, self.config).float()

    def skeleton(self) -> GPT:
        """Return the model without weights: its parameters are on the device `meta`."""
        return empty_model(self.config, dropout=self.dropout, attn_path=self.attn_path)

    def with_kernel(self, kernel: KernelSpec) -> LoadedModel:
        """Return the model with another attention kernel, computed by its first path."""
        return replace(self, config=replace(self.config, kernel=kernel), attn_path="auto")

    @property
    def about(self) -> dict[str, Any]:
        """Quill's own entry of config.json; empty for a folder that another program wrote."""
        about: dict[str, Any] = self.config_json.get(QUILL_KEY, {})
        return about

    @property
    def starts_with_end_of_text(self) -> bool:
        """Whether documents start with end-of-text for this model: it was trained so, or is pretrained."""
        return self.tokenizer.end_of_text is not None and bool(
            self.about.get("ends_documents", QUILL_KEY not in self.config_json)
        )

    @property
    def never_saw_end_of_text(self) -> bool:
        """Whether the model was trained on texts without end-of-text only."""
        from_scratch = self.about.get("init_from", "scratch") == "scratch"
        return QUILL_KEY in self.config_json and from_scratch and not self.about.get("ends_documents", False)

    def check_tokenizer(self, dataset: Dataset, data_dir: Path) -> None:
        """Check that a data set was prepared with this model's tokenizer.

        Raises:
            TokenizerError: It was not; the message names both tokenizers and the command that mends it.
        """
        if self.tokenizer.fingerprint != dataset.tokenizer.fingerprint:
            same_everywhere = self.tokenizer.name if self.tokenizer.name in ("gpt2", "byte") else None
            what = dataset.name if dataset.name in RECIPES else "PATH"
            hint = prepare_hint(f"{dataset.name}_2", data_dir, what=what)
            spec = self.tokenizer_spec or same_everywhere or self.folder
            mend = f"under another name, {hint} --tokenizer {spec}"
            if (
                spec == self.folder and self.folder.is_file()
            ):  # a file of another program, which does not hold the tokenizer
                mend = f"quill train --init_from={self.folder} --data=PATH prepares a text for it"
            raise TokenizerError(
                f"{dataset.folder} was prepared with the tokenizer {identify(dataset.tokenizer)}, but the model in "
                f"{self.folder} has another, {identify(self.tokenizer)}; {mend}"
            )


def identify(tokenizer: Tokenizer) -> str:
    """Return a tokenizer's name with its size and fingerprint: `char (65 tokens, fingerprint 5a5860c6)`."""
    return f"{tokenizer.name} ({tokenizer.vocab_size:,} tokens, fingerprint {tokenizer.fingerprint[:8]})"


def read_config(folder: Path) -> tuple[GPTConfig, float, dict[str, Any]]:
    """Return configuration, dropout and config.json of a model folder.

    Raises:
        CheckpointError: The file is missing, not JSON, or of an unsupported kind.
    """
    path = folder / "config.json"
    config_json = read_record(path, dict[str, Any], CheckpointError, mend="copy, download or export the model again")
    settings = config_json.get("quantization_config") or next(
        (name for name in QUANTIZED_BY if (folder / name).is_file()), None
    )
    if settings is not None:
        method = settings.get("quant_method", "bits") if isinstance(settings, dict) else settings
        raise CheckpointError(
            f"{folder} is a quantised model ({shorten(method)}), which Quill does not read; take the model that it was "
            "made from"
        )
    return *from_config_json(config_json, str(path)), config_json


def load_model(path: Path, *, prefer: str = BEST, dropout: float | None = None, attn_path: str = "auto") -> LoadedModel:
    """Load a run's best checkpoint, a checkpoint, or a Hugging Face folder of our architectures.

    If a run's checkpoint is damaged, the newest undamaged one is loaded, with a warning that names the damage.

    Args:
        path: Any of the three.
        prefer: The checkpoint of a run to load, `best` or `last`.
        dropout: Dropout for further training; None keeps the stored one.
        attn_path: The implementation of the attention kernel.

    Raises:
        CheckpointError: There is no model, it is damaged, or it is of another kind.
    """
    return read_whole_model(
        path, lambda folder: _open_model(folder, dropout=dropout, attn_path=attn_path), prefer=prefer
    )


def load_run(out_dir: Path, *, dropout: float | None = None) -> tuple[LoadedModel, StoredTraining]:
    """Load model and training state of a run's last checkpoint.

    Raises:
        CheckpointError: As in `load_model`, or the folder is a model without a training state.
    """
    return read_whole_model(
        out_dir, lambda folder: (_open_model(folder, dropout=dropout), load_training_state(folder)), prefer=LAST
    )


def _open_model(folder: Path, *, dropout: float | None = None, attn_path: str = "auto") -> LoadedModel:
    config, stored_dropout, config_json = read_config(folder)
    weights = open_weights(folder, config)
    tokenizer = load_tokenizer(folder)
    check_rows(tokenizer, config.vocab_size, folder)
    dropout = stored_dropout if dropout is None else dropout
    return LoadedModel(folder, config, dropout, weights, tokenizer, config_json, attn_path=attn_path)


def check_rows(tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    """Check that the model's vocabulary has a row for each token of a text.

    Special tokens may lack one: many tokenizers have a padding token that the model never sees.

    Raises:
        TokenizerError: A token has no row.
    """
    if tokenizer.vocab_size <= rows:
        return
    if (tokenizer.end_of_text or 0) >= rows or tokenizer.byte_lengths()[rows:].any():
        raise TokenizerError(
            f"the tokenizer in {folder} has ids up to {tokenizer.vocab_size - 1:,}, but the model has rows for the "
            f"first {rows:,} only: they do not belong together; copy or download the model again"
        )
    warn(
        f"{folder}: {tokenizer.vocab_size - rows:,} special tokens of the tokenizer have no row in the model, and are "
        "never used"
    )


def open_weights(folder: Path, config: GPTConfig) -> StoredWeights:
    """Open a folder's weights, and check that they fit the configuration.

    Raises:
        CheckpointError: They do not fit, are missing, or damaged.
    """
    tensors = open_tensors(*weight_files(folder))
    weights = StoredWeights({name: tensors.places[stored] for name, stored in with_prefix(tensors, config).items()})
    check_stored(weights, weights.empty, empty_model(config), where=str(folder))
    return weights


@dataclass(frozen=True)
class StoredTraining:
    """The training state of a checkpoint.

    Attributes:
        state: The progress of the run.
        optimizer: The tensors of the optimizers' states, by name.
        raw_weights: The trained weights, by name, if the model has their average or merged weights; else None.
        own_teachers: The weights of the teachers that the run has trained, by name.
    """

    state: TrainingState
    optimizer: Mapping[str, Tensor]
    raw_weights: Mapping[str, Tensor] | None
    own_teachers: tuple[Mapping[str, Tensor], ...] = ()


def load_training_state(folder: Path) -> StoredTraining:
    """Return the training state of a checkpoint that `load_model` has verified.

    Raises:
        CheckpointError: The folder is a model without a training state.
    """
    if not (folder / STATE).is_file():
        raise CheckpointError(
            f"{folder} holds a model but no training state; start from it with --init_from={folder} instead of resume"
        )
    mend = f"start from the model with --init_from={folder}"
    state = read_record(folder / STATE, TrainingState, CheckpointError, mend=mend)
    name = folder.resolve().name
    if (expected := iteration_of(name)) not in (None, state.iteration):
        raise CheckpointError(
            f"{folder / STATE} is damaged: iteration is {state.iteration}, expected {expected}, because the "
            f"checkpoint is named {name}; {mend}"
        )
    raw_weights = open_tensors(folder / RAW_WEIGHTS) if (folder / RAW_WEIGHTS).is_file() else None
    return StoredTraining(state, open_tensors(folder / OPTIMIZER), raw_weights, load_own_teachers(folder))


def load_own_teachers(folder: Path) -> tuple[Mapping[str, Tensor], ...]:
    """Return the weights of the teachers that a run has trained, from a checkpoint.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / OWN_TEACHERS
    if not path.is_file():
        return ()
    models: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in open_tensors(path).items():
        number, _, name = full_name.partition("/")
        models.setdefault(number, {})[name] = tensor
    numbers = [str(number) for number in range(len(models))]
    if models.keys() != set(numbers):
        raise CheckpointError(
            f"{path} is damaged: its tensors are named after {cut(', '.join(sorted(models)))}, expected numbers from 0 "
            "on; go back to another checkpoint of the run"
        )
    return tuple(models[number] for number in numbers)
