"""From settings to everything that a training loop needs, with all checks before the first step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quillgpt.checkpoint import LoadedModel, TrainingState, load_model, load_training_state
from quillgpt.checkpoint.names import LAST, checkpoints_folder, has_checkpoint
from quillgpt.config.schema import TrainSettings
from quillgpt.console import say, warn
from quillgpt.data.dataset import Dataset, dataset_folder, open_dataset
from quillgpt.data.manifest import read_manifest
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import CheckpointError, ConfigError, DataError, TokenizerError, UserError
from quillgpt.model import GPT, ModelShape, padded_vocab_size, usual_mlp_dim
from quillgpt.optim.optimizers import OptimizerSet, make_optimizers
from quillgpt.text.tokenizer import Tokenizer
from quillgpt.training.choices import Machine, choose_compile, choose_machine, choose_paths
from quillgpt.training.step import TrainStep

CHOSEN = ("device", "dtype", "compile", "attn_path", "micro_batch_size", "threads")
"""Settings that a run chooses for itself and keeps when it is resumed."""

SHORTEST_USEFUL_BLOCK = 8
"""Context below which a model learns nothing but letter frequencies; no shorter one is offered."""

SHAPE_SETTINGS = ("arch", "n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size", "bias", "activation")


@dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        settings: With a value in place of every `auto`.
        machine: Device and number format.
        dataset: What it learns from.
        model: On its device.
        optimizers: With their state, where the run is resumed.
        step: Does one iteration.
        state: Where the run is.
        parent: The model that it started from, or its own last checkpoint, if any.
        resumed: Whether it goes on from its own last checkpoint.
    """

    settings: TrainSettings
    machine: Machine
    dataset: Dataset
    model: GPT
    optimizers: OptimizerSet
    step: TrainStep
    state: TrainingState
    parent: LoadedModel | None
    resumed: bool

    @property
    def out_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.settings.out_dir)

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of its origin."""
        return {
            "dataset": self.dataset.name,
            "data_fingerprint": self.dataset.fingerprint,
            "tokenizer": self.dataset.tokenizer.name,
            "tokenizer_fingerprint": self.dataset.tokenizer.fingerprint,
            "ends_documents": self.dataset.ends_documents,
            "iteration": self.state.iteration,
            "init_from": self.settings.init_from,
        }


def set_up(settings: TrainSettings) -> Run:
    """Prepare data, model and optimizer, and make the automatic choices.

    Raises:
        UserError: Anything that would keep the run from training, before it has changed a thing in out_dir.
    """
    out_dir = Path(settings.out_dir)
    resuming = settings.init_from == "resume"
    if blocked := next((path for path in (out_dir, *out_dir.parents) if path.exists() and not path.is_dir()), None):
        raise ConfigError(f"out_dir = {out_dir}, but {blocked} is a file; choose another --out_dir")
    if resuming and settings.overwrite:
        raise ConfigError("--init_from=resume goes on with a run, --overwrite starts it over; give one of them")
    if has_checkpoint(out_dir) and not (resuming or settings.overwrite or settings.eval_only):
        raise CheckpointError(
            f"{out_dir} already holds a checkpoint; go on training it with --init_from=resume, start over with "
            "--overwrite, or choose another --out_dir"
        )
    parent = load_parent(settings)
    state, optimizer_state = TrainingState(), None
    if resuming:
        assert parent is not None
        optimizer_state, state = load_training_state(parent.folder)
        settings = adopt_choices(settings, state)
    settings, machine = choose_machine(settings)
    dataset = (open_same_data(settings, state) if resuming else None) or open_data(settings, parent)
    if resuming and dataset.fingerprint != state.data_fingerprint:
        raise DataError(
            f"the data set {dataset.name} is not what {out_dir} was trained on (fingerprint "
            f"{dataset.fingerprint[:12]}, the run's is {state.data_fingerprint[:12]}); train into another --out_dir "
            f"with --init_from={out_dir}"
        )
    shape = shape_for(settings, dataset.tokenizer) if parent is None else parent.model.shape
    if parent is not None:
        settings = adopt_shape(settings, shape, resuming=resuming)
    check_lengths(dataset, settings)
    settings = choose_paths(settings, shape, machine)
    model = build_model(settings, shape, parent).to(machine.device)
    settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine)})
    optimizers = make_optimizers(model, settings)
    if optimizer_state is not None:
        optimizers.load_state(optimizer_state)
    step = TrainStep(model, optimizers, dataset.train, settings, machine)
    if state.scaler:
        step.scaler.load_state_dict(state.scaler)
    # What is recorded is how the run began; a later reader of its config.toml must not start it over by accident.
    began = {"overwrite": False, "init_from": state.settings["init_from"] if resuming else settings.init_from}
    settings = settings.model_copy(update=began)
    state = replace(state, settings=settings.model_dump(mode="json"), data_fingerprint=dataset.fingerprint)
    return Run(settings, machine, dataset, model, optimizers, step, state, parent, resuming)


def load_parent(settings: TrainSettings) -> LoadedModel | None:
    """Load the model that `init_from` names; None for `scratch`.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    if settings.init_from == "scratch":
        return None
    if settings.init_from == "resume":
        last = checkpoints_folder(Path(settings.out_dir)) / LAST
        if not last.is_dir():
            raise CheckpointError(
                f"{settings.out_dir} holds no checkpoint to resume; train it first, without --init_from=resume"
            )
        return load_model(last, dropout=settings.dropout)
    return load_model(Path(settings.init_from), dropout=settings.dropout)


def adopt_choices(settings: TrainSettings, state: TrainingState) -> TrainSettings:
    """Take a resumed run's own automatic choices wherever the user has not said otherwise."""
    unset = {name: state.settings[name] for name in CHOSEN if getattr(settings, name) in ("auto", None)}
    return settings.model_copy(update=unset)


def adopt_shape(settings: TrainSettings, shape: ModelShape, *, resuming: bool) -> TrainSettings:
    """Take the shape of the model that the run starts from; only block_size may be smaller, unless it is resumed.

    Raises:
        ConfigError: The block is longer than the model's, or a resumed run is told another shape.
    """
    if settings.block_size > shape.block_size:
        raise ConfigError(
            f"block_size = {settings.block_size} is longer than the {shape.block_size} of the model in "
            f"{settings.init_from}; use --block_size={shape.block_size} or less"
        )
    stored = {name: value for name, value in asdict(shape).items() if name in SHAPE_SETTINGS}
    for name, value in stored.items():
        given = getattr(settings, name)
        if resuming and given is not None and given != value:
            raise ConfigError(
                f"{name} = {given}, but the run in {settings.out_dir} has {name} = {value}; a resumed run keeps its "
                f"shape. Use --{name}={value}, or resume with the run's own settings: "
                f"quill train {settings.out_dir}/config.toml --init_from=resume"
            )
    return settings.model_copy(update=stored | {"block_size": settings.block_size})


def open_same_data(settings: TrainSettings, state: TrainingState) -> Dataset | None:
    """Open the tokens that a resumed run was trained on, if they are still there; its text need not be."""
    try:
        dataset = open_dataset(settings.dataset, Path(settings.data_dir))
    except UserError:  # then opening it in the usual way says why, or makes it again
        return None
    return dataset if dataset.fingerprint == state.data_fingerprint else None


def open_data(settings: TrainSettings, parent: LoadedModel | None) -> Dataset:
    """Open or prepare the data set; the tokenizer of a model that the run starts from wins.

    Raises:
        DataError: It is not there and cannot be prepared.
        TokenizerError: It was prepared with another tokenizer than the model's.
    """
    data_dir = Path(settings.data_dir)
    if settings.data is not None:
        if parent is not None:
            check_place(settings, parent)
        return prepare(
            [source for source in settings.data.split(",") if source],
            data_dir=data_dir,
            dataset=settings.dataset,
            tokenizer=parent.tokenizer if parent else settings.tokenizer,
            val=settings.val,
            val_fraction=settings.val_fraction,
        ).dataset
    warn_of_split(settings)
    dataset = ensure_dataset(settings.dataset, data_dir=data_dir, tokenizer=None if parent else settings.tokenizer)
    if parent is not None:
        parent.check_tokenizer(dataset, data_dir)
    return dataset


def warn_of_split(settings: TrainSettings) -> None:
    """Say that `val` and `val_fraction` do nothing without a text to prepare, where they ask for another split."""
    manifest = read_manifest(dataset_folder(settings.dataset, Path(settings.data_dir)))
    usual = TrainSettings.model_fields["val_fraction"].default
    split = usual if manifest is None or manifest.val_fraction is None else manifest.val_fraction
    for name, value, expected in (("val", settings.val, None), ("val_fraction", settings.val_fraction, split)):
        if value not in (expected, usual):
            warn(
                f"{name} = {value} is not applied: it splits a text, and no --data is given. To split anew: "
                f"quill prepare {settings.dataset} --{name}={value}"
            )


def check_place(settings: TrainSettings, parent: LoadedModel) -> None:
    """Check that preparing a text for a model would not replace a data set that another tokenizer's models need.

    Raises:
        TokenizerError: It would; names a place for the new one.
    """
    if settings.tokenizer is not None:
        say(f"the tokenizer of {parent.folder} is used; --tokenizer={settings.tokenizer} is not needed")
    folder = dataset_folder(settings.dataset, Path(settings.data_dir))
    manifest = read_manifest(folder)
    if manifest is not None and manifest.tokenizer.fingerprint != parent.tokenizer.fingerprint:
        raise TokenizerError(
            f"{folder} is already prepared with another tokenizer than the {parent.tokenizer.name} of {parent.folder}; "
            f"leave it to its own models and name another one: --dataset={settings.dataset}_2"
        )


def shape_for(settings: TrainSettings, tokenizer: Tokenizer) -> ModelShape:
    """Return the shape of a model from scratch.

    Raises:
        ConfigError: vocab_size is smaller than the tokenizer's vocabulary.
    """
    rows = settings.vocab_size or padded_vocab_size(tokenizer.vocab_size)
    if rows < tokenizer.vocab_size:
        raise ConfigError(
            f"vocab_size = {rows} is smaller than the {tokenizer.vocab_size} tokens of the tokenizer {tokenizer.name}; "
            "leave vocab_size out"
        )
    return model_shape(settings, rows)


def model_shape(settings: TrainSettings, vocab_size: int) -> ModelShape:
    """Return the shape that the settings describe, with so many rows in its vocabulary."""
    return ModelShape(
        arch=settings.arch,
        vocab_size=vocab_size,
        block_size=settings.block_size,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_kv_head=settings.n_kv_head or settings.n_head,
        n_embd=settings.n_embd,
        head_dim=settings.n_embd // settings.n_head,
        mlp_dim=usual_mlp_dim(settings.arch, settings.n_embd),
        bias=settings.bias,
        activation=settings.activation,
        norm_eps=1e-5 if settings.arch == "gpt2" else 1e-6,
        attn_type=settings.attn_type,
    )


def build_model(settings: TrainSettings, shape: ModelShape, parent: LoadedModel | None) -> GPT:
    """Return the model to train: fresh, or the parent's weights, with its context cropped where that is asked for."""
    assert settings.attn_path != "auto"
    options = {"dropout": settings.dropout, "attn_path": settings.attn_path}
    if parent is None:
        return GPT(shape, seed=settings.seed, **options)  # type: ignore[arg-type]
    state = parent.model.state_dict()
    if settings.block_size < shape.block_size and "position_embedding.weight" in state:
        state["position_embedding.weight"] = state["position_embedding.weight"][: settings.block_size]
    model = GPT(replace(shape, block_size=settings.block_size), seed=None, **options)  # type: ignore[arg-type]
    model.load_state_dict(state)
    return model


def check_lengths(dataset: Dataset, settings: TrainSettings) -> None:
    """Check that both splits hold at least one window.

    Raises:
        DataError: One does not; names the block size that would fit.
    """
    for split, tokens in (("training", dataset.train), ("validation", dataset.val)):
        if len(tokens) <= settings.block_size:
            fitting = min(len(dataset.train), len(dataset.val)) - 1
            shorter = f" or --block_size={fitting}" if fitting >= SHORTEST_USEFUL_BLOCK else ""
            raise DataError(
                f"the {split} split of {dataset.name} has {len(tokens):,} tokens, block_size = {settings.block_size} "
                f"needs {settings.block_size + 1:,}; use a longer text{shorter}"
            )
