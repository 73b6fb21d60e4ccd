"""From settings to everything that a training loop needs, with all checks before the first step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import TrainSettings, fields_in_order
from quillgpt.console import say, warn
from quillgpt.data.dataset import Dataset
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.model import GPT, ModelShape, padded_vocab_size, usual_mlp_dim
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet, make_optimizers
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.choices import Machine, choose_compile, choose_paths
from quillgpt.training.data import check_lengths, open_data
from quillgpt.training.origin import Origin, find_origin
from quillgpt.training.recorded import RecordedStep
from quillgpt.training.step import TrainStep

ORDER_SETTINGS = ("batch_size", "gradient_accumulation_steps", "seed")
"""Settings that say which text an iteration learns from."""

SHAPE_SETTINGS = ("arch", "n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size", "bias", "activation")


@dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        settings: With a value in place of every `auto`.
        machine: Device and number format.
        dataset: What it learns from.
        model: On its device.
        average: The average of its weights, where one is kept.
        optimizers: With their state, where the run is resumed.
        step: Does one iteration.
        state: Where the run is.
        parent: The folder of the weights that it started from, or of its own last checkpoint, if any.
        resumed: Whether it goes on from its own last checkpoint.
    """

    settings: TrainSettings
    machine: Machine
    dataset: Dataset
    model: GPT
    average: WeightAverage | None
    optimizers: OptimizerSet
    step: TrainStep
    state: TrainingState
    parent: Path | None
    resumed: bool

    @property
    def out_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.settings.out_dir)

    @property
    def evaluated_model(self) -> GPT:
        """The model that is evaluated, kept and sampled from: the average of the weights, where one is kept."""
        return self.average.model if self.average else self.model

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
    origin = find_origin(settings)
    dataset = open_data(origin)
    settings, shape = choose_shape(origin, dataset.tokenizer.name, dataset.tokenizer.vocab_size)
    check_lengths(dataset, settings)
    return assemble(origin, choose_paths(settings, shape, origin.machine), shape, dataset)


def choose_shape(origin: Origin, tokenizer: str, vocab_size: int) -> tuple[TrainSettings, ModelShape]:
    """Return the settings with the shape of the run's model, and that shape.

    Args:
        origin: What it starts from.
        tokenizer: The name of the data set's tokenizer.
        vocab_size: Its ids.

    Raises:
        ConfigError: The settings ask for another shape than the model that it starts from has, or for too few rows.
    """
    if origin.parent is None:
        return origin.settings, shape_for(origin.settings, tokenizer, vocab_size)
    shape = origin.parent.model.shape
    return adopt_shape(origin.settings, shape, resuming=origin.resumed), shape


def assemble(origin: Origin, settings: TrainSettings, shape: ModelShape, dataset: Dataset) -> Run:
    """Make model, optimizers and step.

    Args:
        origin: What the run starts from.
        settings: With all choices made but that of compilation.
        shape: The shape of the model that it starts from, or of its own.
        dataset: What it learns from.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    machine, state = origin.machine, origin.state
    model, average, optimizers = build_model(origin, settings, shape)
    settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine)})
    kind = RecordedStep if settings.cuda_graph and machine.device.type == "cuda" else TrainStep
    step = kind(model, optimizers, dataset.train, settings, machine, average)
    step.restore(state)
    if origin.resumed:
        say_changes(state, settings)
    # What is recorded is how the run began; a later reader of its config.toml must not start it over by accident.
    init_from = state.settings["init_from"] if origin.resumed else settings.init_from
    settings = settings.model_copy(update={"overwrite": False, "init_from": init_from})
    state = replace(state, settings=settings.model_dump(mode="json"), data_fingerprint=dataset.fingerprint)
    # Of the parent only the folder: its weights are copied, and would stay in memory for as long as the run.
    parent = origin.parent.folder if origin.parent else None
    return Run(settings, machine, dataset, model, average, optimizers, step, state, parent, origin.resumed)


def say_changes(state: TrainingState, settings: TrainSettings) -> None:
    """Say which settings of a resumed run are not what they were, and what becomes of its learning rate."""
    before, now = state.settings, settings.model_dump(mode="json")
    changed = {
        name: f"{before[name]} -> {now[name]}"
        for name in fields_in_order(type(settings))
        if now[name] != before.get(name, now[name]) and name not in ("init_from", "overwrite", *SHAPE_SETTINGS)
    }
    if not changed:
        return
    say(f"changed since iter {state.iteration}: " + ", ".join(f"{name} {how}" for name, how in changed.items()))
    if "max_iters" in changed and state.iteration < settings.max_iters:
        first, last = (learning_rate(each, settings) for each in (state.iteration, settings.max_iters - 1))
        say(
            f"the learning rate goes on at {first:.3g} and ends at {last:.3g}, "
            f"as lr_decay_iters = {settings.lr_decay_iters} has it"
        )
    if moved := [name for name in ORDER_SETTINGS if name in changed]:
        warn(
            f"with another {' and '.join(moved)} the data goes on in another order: text may come again or be left out"
        )


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


def shape_for(settings: TrainSettings, tokenizer: str, tokens: int) -> ModelShape:
    """Return the shape of a model from scratch, for a tokenizer with so many tokens.

    Raises:
        ConfigError: vocab_size is smaller than the tokenizer's vocabulary.
    """
    rows = settings.vocab_size or padded_vocab_size(tokens)
    if rows < tokens:
        raise ConfigError(
            f"vocab_size = {rows} is smaller than the {tokens} tokens of the tokenizer {tokenizer}; "
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


def build_model(
    origin: Origin, settings: TrainSettings, shape: ModelShape
) -> tuple[GPT, WeightAverage | None, OptimizerSet]:
    """Return the model to train, on its device, the average of its weights where one is kept, and its optimizers.

    All are as they were where the run is resumed.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    model = starting_model(origin, settings, shape).to(origin.machine.device)
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    take_raw_weights(model, origin)
    optimizers = make_optimizers(model, settings)
    if origin.stored is not None:
        optimizers.load_state(origin.stored.optimizer)
    return model, average, optimizers


def starting_model(origin: Origin, settings: TrainSettings, shape: ModelShape) -> GPT:
    """Return a fresh model, or one with the weights that the run starts from, its context cropped where asked for."""
    assert settings.attn_path != "auto"
    options = {"dropout": settings.dropout, "attn_path": settings.attn_path}
    if origin.parent is None:
        return GPT(shape, seed=settings.seed, zero_projections=settings.zero_init, **options)  # type: ignore[arg-type]
    shape = origin.parent.model.shape
    state = origin.parent.model.state_dict()
    if settings.block_size < shape.block_size and "position_embedding.weight" in state:
        state["position_embedding.weight"] = state["position_embedding.weight"][: settings.block_size]
    model = GPT(replace(shape, block_size=settings.block_size), seed=None, **options)  # type: ignore[arg-type]
    model.load_state_dict(state)
    return model


def take_raw_weights(model: GPT, origin: Origin) -> None:
    """Give a resumed run's model the weights that are trained, where its checkpoint's model is their average.

    Raises:
        CheckpointError: They are another model's.
    """
    if origin.stored is None or not origin.stored.state.settings.get("ema_decay"):
        return
    parameters, raw = dict(model.named_parameters()), origin.stored.raw_weights or {}
    if {name: each.shape for name, each in parameters.items()} != {name: each.shape for name, each in raw.items()}:
        assert origin.parent is not None
        raise CheckpointError(f"the training state in {origin.parent.folder} is of another model than its weights")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(raw[name])
