"""From settings to everything that a training loop needs, with all checks before the first step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import TrainSettings, fields_in_order
from quillgpt.console import say, warn
from quillgpt.data.dataset import Dataset
from quillgpt.errors import CheckpointError
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.kernels import limit_range, mean_distance_argument
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.groups import group_parameters
from quillgpt.optim.optimizers import OptimizerSet, make_optimizers
from quillgpt.optim.schedule import learning_rate
from quillgpt.training.base import describe_base, with_adapters
from quillgpt.training.choices import Machine, choose_compile, choose_paths
from quillgpt.training.data import check_lengths, open_data, open_replayed, with_place_of, without_secrets
from quillgpt.training.memory import check_memory
from quillgpt.training.model_config import KERNEL_SETTINGS, MODEL_SETTINGS, check_range, range_limit
from quillgpt.training.origin import Origin, find_origin
from quillgpt.training.planning.budget import choose_context, fit_to_budget
from quillgpt.training.planning.scaling import Text
from quillgpt.training.recorded import RecordedStep
from quillgpt.training.step import TrainStep

WEAK_ARGUMENT = -4.0
"""Below it, exp is less than a fiftieth."""

ORDER_SETTINGS = ("batch_size", "gradient_accumulation_steps", "seed")
"""Settings that say which text an iteration learns from."""


@dataclass
class Run:
    """A run that is ready to train.

    Attributes:
        settings: With a value in place of every `auto`.
        machine: Device and number format.
        dataset: What it learns from.
        replayed: What it should not forget, and learns from too, if anything.
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
    replayed: Dataset | None
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

    def change_length(self, iterations: int) -> None:
        """Let the run, and the fall of its learning rate, end at another iteration."""
        self.settings = self.settings.model_copy(update={"max_iters": iterations, "lr_decay_iters": max(1, iterations)})
        self.step.settings = self.settings
        self.state.settings |= {name: getattr(self.settings, name) for name in ("max_iters", "lr_decay_iters")}

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
    origin = with_place_of(dataset, replace(origin, settings=without_secrets(origin.settings)))
    text = Text(len(dataset.train), len(dataset.val), dataset.tokenizer.name, dataset.tokenizer.vocab_size)
    origin, config = choose_context(origin, text)
    check_lengths(dataset.train, dataset.val, origin.settings)
    replayed = open_replayed(origin.settings, dataset, origin.state)
    check_range(origin.settings, config)
    settings, config = fit_to_budget(origin, text, dataset.train, config)
    check_memory(settings, config, origin.machine.device)
    return assemble(origin, choose_paths(settings, config, origin.machine), config, dataset, replayed)


def assemble(
    origin: Origin, settings: TrainSettings, config: GPTConfig, dataset: Dataset, replayed: Dataset | None = None
) -> Run:
    """Make model, optimizers and step.

    Args:
        origin: What the run starts from.
        settings: With all choices made but that of compilation.
        config: Configuration of the model that it starts from, or of its own.
        dataset: What it learns from.
        replayed: What it should not forget, if anything.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    machine, state = origin.machine, origin.state
    if origin.parent is None:
        warn_of_weak_attention(config)
    model, average, optimizers = build_model(origin, settings, config)
    settings = settings.model_copy(update={"compile": choose_compile(settings, model, machine)})
    kind = RecordedStep if settings.cuda_graph and machine.device.type == "cuda" else TrainStep
    old = None if replayed is None else replayed.train
    step = kind(model, optimizers, dataset.train, settings, machine, average, replayed=old)
    step.restore(state)
    if origin.resumed:
        say_changes(state, settings)
    # What is recorded is how the run began; a later reader of its config.toml must not start it over by accident.
    init_from = state.settings.get("init_from", "scratch") if origin.resumed else settings.init_from
    settings = settings.model_copy(update={"overwrite": False, "init_from": init_from})
    recorded = {"settings": settings.model_dump(mode="json"), "data_fingerprint": dataset.fingerprint}
    state = state.model_copy(update=recorded)
    if settings.lora_rank and not origin.resumed:
        assert origin.parent is not None
        state.base = describe_base(origin.parent)
    # Of the parent only the folder: its weights are copied, and would stay in memory for as long as the run.
    parent = origin.parent.folder if origin.parent else None
    state.replay_fingerprint = "" if replayed is None else replayed.fingerprint
    return Run(settings, machine, dataset, replayed, model, average, optimizers, step, state, parent, origin.resumed)


def warn_of_weak_attention(config: GPTConfig) -> None:
    """Say where a fresh model's Gaussian weights are next to nothing, and what would mend it."""
    kernel, argument = config.kernel, mean_distance_argument(config)
    if not kernel.of_distance or kernel.normalized or argument > WEAK_ARGUMENT:
        return
    learning = "" if kernel.learn_tau else ", --learn_tau"
    warn(
        f"attention is nearly off at the start: an average pair of a query and a key, heads {config.head_dim} wide, "
        f"has the argument {argument:.1f}, and {kernel.attn_type} gives it a weight of about {math.exp(argument):.0e}. "
        f"More and so narrower heads{learning}, or --attn_type=GKn, which divides by the sum of the weights, "
        "would mend it"
    )


def say_changes(state: TrainingState, settings: TrainSettings) -> None:
    """Say which settings of a resumed run are not what they were, and what becomes of its learning rate."""
    before, now = state.settings, settings.model_dump(mode="json")
    changed = {
        name: f"{before[name]} -> {now[name]}"
        for name in fields_in_order(type(settings))
        if now[name] != before.get(name, now[name])
        and name not in ("init_from", "overwrite", "out_dir", *MODEL_SETTINGS, *KERNEL_SETTINGS)
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


def build_model(
    origin: Origin, settings: TrainSettings, config: GPTConfig
) -> tuple[GPT, WeightAverage | None, OptimizerSet]:
    """Return the model to train, on its device, the average of its weights where one is kept, and its optimizers.

    All are as they were where the run is resumed.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    model = starting_model(origin, settings, config).to(origin.machine.device)
    model.gradient_checkpointing = settings.gradient_checkpointing
    if settings.range_penalty:
        limit_range(model, range_limit(settings, config.kernel))
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    take_raw_weights(model, origin)
    optimizers = make_optimizers(model, settings)
    if origin.stored is not None:
        optimizers.load_state(origin.stored.optimizer)
    return model, average, optimizers


def starting_model(origin: Origin, settings: TrainSettings, config: GPTConfig) -> GPT:
    """Return a fresh model, or one with the weights that the run starts from, its context cropped where asked for."""
    assert settings.attn_path != "auto"
    options = {"dropout": settings.dropout, "attn_path": settings.attn_path}
    if origin.parent is None:
        return GPT(config, seed=settings.seed, zero_projections=settings.zero_init, **options)  # type: ignore[arg-type]
    source = origin.base or origin.parent
    state = source.model.state_dict()
    if settings.block_size < config.block_size and "position_embedding.weight" in state:
        state["position_embedding.weight"] = state["position_embedding.weight"][: settings.block_size]
    config = replace(source.config, block_size=settings.block_size, kernel=config.kernel)
    model = GPT(config, seed=None, **options)  # type: ignore[arg-type]
    own = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(OF_KERNELS)}
    state = {name: tensor for name, tensor in state.items() if name in own or not name.endswith(OF_KERNELS)}
    model.load_state_dict(own | state)
    return with_adapters(model, settings)


OF_KERNELS = (".log_tau.weight", ".gain.weight")
"""Parameters that a model begins with, or leaves behind, where it goes on with another attention kernel."""


def take_raw_weights(model: GPT, origin: Origin) -> None:
    """Give a resumed run's model the weights that are trained, where they are not those of its checkpoint's model.

    Raises:
        CheckpointError: They are another model's.
    """
    if origin.stored is None:
        return
    before = origin.stored.state.settings
    if not (before.get("ema_decay") or before.get("lora_rank")):
        return
    parameters, raw = group_parameters(model).trained, origin.stored.raw_weights or {}
    if {name: each.shape for name, each in parameters.items()} != {name: each.shape for name, each in raw.items()}:
        assert origin.parent is not None
        raise CheckpointError(f"the training state in {origin.parent.folder} is of another model than its weights")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(raw[name])
