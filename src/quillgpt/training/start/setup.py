"""From settings to a run that is ready to train, with all checks before the first iteration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from quillgpt.checkpoint import TrainingState
from quillgpt.config.schema import ResolvedSettings, TrainSettings, fields_in_order
from quillgpt.console import say, warn
from quillgpt.data.dataset import Dataset
from quillgpt.data.dataset_manifest import DatasetManifest
from quillgpt.data.mixture import Mixture
from quillgpt.data.prepare import usual_for
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.alike import check_data_alike
from quillgpt.distributed.fsdp import shard
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.kernels import mean_distance_argument
from quillgpt.optim.average import WeightAverage
from quillgpt.optim.optimizers import OptimizerSet, make_optimizers
from quillgpt.optim.schedule import learning_rate
from quillgpt.text.tokenizers.tokenizer import usual_tokenizer
from quillgpt.training.own_teachers import restore_teachers, teach_if_last
from quillgpt.training.planning.budget import Speed, choose_context, fit_to_budget
from quillgpt.training.planning.scaling import Text, is_of_wrong_size
from quillgpt.training.run import Prompt, Run
from quillgpt.training.samples import prompt_of_samples
from quillgpt.training.start.adapter_base import describe_base, with_adapters
from quillgpt.training.start.choices import choose_paths
from quillgpt.training.start.compile_choice import choose_compile
from quillgpt.training.start.memory import check_memory
from quillgpt.training.start.model_config import KERNEL_SETTINGS, MODEL_SETTINGS, check_range, limit_kernel_range
from quillgpt.training.start.raw_weights import load_raw_weights
from quillgpt.training.start.run_data import (
    check_lengths,
    open_data,
    open_replayed,
    recorded_weights,
    with_place_of,
    without_secrets,
)
from quillgpt.training.start.starting_point import StartingPoint, find_starting_point
from quillgpt.training.start.teachers import with_teachers

WEAK_ARGUMENT = -4.0
"""Below it, exp is less than a fiftieth."""

ORDER_SETTINGS = ("batch_size", "gradient_accumulation_steps", "seed")
"""Settings that say which text an iteration learns from."""


def set_up(
    settings: TrainSettings, world: World = ALONE, *, started: float | None = None, speed: Speed | None = None
) -> Run:
    """Prepare data, model and optimizer, and make the automatic choices.

    Of several ranks, the first one prepares and chooses. The others do the same with all choices made.

    Args:
        settings: The run's.
        world: The processes that train it.
        started: From when its minutes count, as time.perf_counter has it; None: from now.
        speed: The speed that its first iterations have reached with a model of another size, which is not chosen again
            then; None: it has not begun yet.

    Raises:
        UserError: Anything that would keep the run from training, before it has changed a thing in out_dir.
    """
    chosen = None
    with world.agreement(), world.main_first("set up"):
        if world.is_main:
            chosen = choose(settings, world, started, speed)
    all_chosen = world.broadcast(chosen.settings if chosen else None)
    with world.agreement():
        if chosen is None:
            given = {"defaults": "fixed", "init_from": settings.init_from, "overwrite": settings.overwrite}
            chosen = choose(TrainSettings(**all_chosen.model_dump() | given), world)
            chosen = replace(chosen, settings=all_chosen)
    check_data_alike(
        world,
        {
            "data hash": chosen.mixture.fingerprint,
            "replayed data hash": None if chosen.replayed is None else chosen.replayed.fingerprint,
            "iteration of the checkpoint": chosen.start.state.iteration,
            "teachers": chosen.start.teacher_hashes,
        },
    )
    with world.agreement():
        return assemble(chosen)


@dataclass(frozen=True)
class Choices:
    """A run with all choices made, whose weights this rank still has alone.

    Attributes:
        start: What it starts from.
        settings: Its settings.
        mixture: What it learns from.
        replayed: What it should not forget, if anything.
        model: The model.
        prompt: Text and ids of the prompt of its samples; None: it writes none.
        starting_weights: Returns the weights with which a model of the run begins, by name; the first one is number 0.
        is_of_wrong_size: Whether the rules would choose another model for so many operations; None: that is not asked.
    """

    start: StartingPoint
    settings: ResolvedSettings
    mixture: Mixture
    replayed: Dataset | None
    model: GPT
    prompt: Prompt | None
    starting_weights: Callable[[int], Mapping[str, Tensor]]
    is_of_wrong_size: Callable[[float], bool] | None


def choose(settings: TrainSettings, world: World, started: float | None = None, speed: Speed | None = None) -> Choices:
    """Open the data, make the model, and make all automatic choices for the minutes that are left then."""
    start = find_starting_point(settings, world)
    mixture = open_data(start)
    start = with_place_of(mixture, replace(start, settings=without_secrets(start.settings)))
    text = Text.of(mixture)
    start, config = choose_context(start, text)
    for dataset in mixture.datasets:
        check_lengths(dataset.name, len(dataset.train), len(dataset.val), start.settings)
    note_tokenizer(start, mixture.datasets[0].manifest)
    replayed = open_replayed(start.settings, mixture, start.state)
    prompt = prompt_of_samples(start.settings, mixture, replayed)
    check_range(start.settings, config)
    start = with_teachers(start, mixture.tokenizer.fingerprint)
    passed = 0.0 if started is None else time.perf_counter() - started
    asked = start.settings
    is_sized = asked.defaults == "scaled" and start.parent is None and world.size == 1 and speed is None
    settings, config = fit_to_budget(start, text, mixture.datasets[0].train, config, passed=passed, speed=speed)
    check_memory(settings, config, start.machine.device, world)
    chosen = choose_paths(settings, config, start.machine)
    if start.parent is None:
        warn_of_weak_attention(config)
    model = build_model(start, chosen, config)
    in_background = start.machine.device.type == "cpu" and world.size == 1
    compiled = choose_compile(chosen, model, start.machine, start.state, in_background=in_background)
    chosen = chosen.model_copy(update={"compile": compiled})
    if start.resumed:
        say_changes(start.state, chosen)
        note_changed_mixture(start.state, mixture)
    # What is recorded is how the run began; a later reader of its config.toml must not start it over by accident.
    init_from = start.state.settings.get("init_from", "scratch") if start.resumed else chosen.init_from
    chosen = chosen.model_copy(update={"overwrite": False, "init_from": init_from})
    return Choices(
        start,
        ResolvedSettings.of(chosen),
        mixture,
        replayed,
        model,
        prompt=prompt,
        starting_weights=lambda number: (
            fresh_model(chosen, config, number) if number else starting_model(start, chosen, config)
        ).state_dict(),
        is_of_wrong_size=partial(is_of_wrong_size, config, asked, text) if is_sized else None,
    )


def note_tokenizer(start: StartingPoint, manifest: DatasetManifest | None) -> None:
    """Note why a run has its tokenizer, where nobody has named one."""
    if start.settings.tokenizer is not None or start.resumed:
        return
    reason = "that of the data set"
    if start.parent is not None:
        reason = "that of the model that it begins from"
    elif manifest is not None:
        requested, text_bytes = manifest.tokenizer.requested, manifest.train.bytes + manifest.val.bytes
        if requested == usual_tokenizer(text_bytes):
            reason = usual_for(requested, text_bytes)
    start.machine.because(reason, "tokenizer")


def assemble(chosen: Choices) -> Run:
    """Make a run; all ranks do so together.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    start, settings, mixture, replayed = chosen.start, chosen.settings, chosen.mixture, chosen.replayed
    average, optimizers = make_trainable(chosen.model, start, settings)
    state = start.state.model_copy(update={"data_fingerprint": mixture.fingerprint})
    if settings.lora_rank and not start.resumed:
        assert start.parent is not None
        state.base = describe_base(start.parent)
    if settings.compile is not True:
        state.compiled_from = None
    elif state.compiled_from is None and state.settings.get("compile") is not True:
        state.compiled_from = state.iteration
    state.teachers = start.teacher_hashes
    state.replay_fingerprint = "" if replayed is None else replayed.fingerprint
    run = Run(
        settings=settings,
        machine=start.machine,
        mixture=mixture,
        replayed=replayed,
        model=chosen.model,
        average=average,
        optimizers=optimizers,
        state=state,
        parent=start.parent.folder if start.parent else None,
        resumed=start.resumed,
        prompt=chosen.prompt,
        starting_weights=chosen.starting_weights,
        is_of_wrong_size=chosen.is_of_wrong_size,
        given_teachers=start.teachers,
    )
    if start.stored is not None:
        restore_teachers(run, start.stored.own_teachers, run.parent)
        teach_if_last(run)
    return run


def warn_of_weak_attention(config: GPTConfig) -> None:
    """Warn of a new model whose Gaussian attention weights are almost 0, and say what would help."""
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
    """Say which settings of a resumed run have changed, and what its learning rate will be."""
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
        first, last = (learning_rate(i, settings) for i in (state.iteration, settings.max_iters - 1))
        say(
            f"the learning rate goes on at {first:.3g} and ends at {last:.3g}, "
            f"as lr_decay_iters = {settings.lr_decay_iters} has it"
        )
    if moved := [name for name in ORDER_SETTINGS if name in changed]:
        warn(
            f"with another {' and '.join(moved)} the data goes on in another order: text may come again or be left out"
        )


def note_changed_mixture(state: TrainingState, mixture: Mixture) -> None:
    """Warn of a resumed run that its data is mixed otherwise from now on, so its losses are means of another kind."""
    before = recorded_weights(state)
    if mixture.is_single or list(Mixture.of(mixture.datasets, before).shares) == list(mixture.shares):
        return
    warn(
        f"mixed as {mixture.name} from now on: text may come again or be left out, and the val loss is another mean, "
        "so the best is looked for from here on"
    )
    state.best_val_loss = state.best_iteration = state.best_train_loss = state.evaluated_iteration = None
    state.start_val_loss = None
    state.evaluations_since_best = 0
    state.losses_at_start = {}


def build_model(start: StartingPoint, settings: TrainSettings, config: GPTConfig) -> GPT:
    """Return the model to train, on its device; where it has an average, that of a resumed run."""
    model = starting_model(start, settings, config).to(start.machine.device)
    model.gradient_checkpointing = settings.gradient_checkpointing
    model.loss_in_parts = start.state.loss_in_parts
    model.fused_rest = start.state.fused_rest
    limit_kernel_range(model, settings)
    return model


def make_trainable(
    model: GPT, start: StartingPoint, settings: TrainSettings
) -> tuple[WeightAverage | None, OptimizerSet]:
    """Return the average of a model's weights where one is kept, and its optimizers.

    All are as they were where the run is resumed. Where the ranks share the weights, each keeps its part of all.

    Args:
        model: The model, from `build_model`.
        start: What the run starts from.
        settings: The run's.

    Raises:
        CheckpointError: The optimizer's state is another optimizer's.
    """
    machine = start.machine
    average = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
    if settings.strategy == "fsdp" and machine.world.size > 1:
        for whole in (model, *([average.model] if average else [])):
            shard(whole, whole.blocks, machine.world, machine.device)
    if start.stored is not None and start.parent is not None:
        load_raw_weights(model, start.stored, start.parent.folder)
    optimizers = make_optimizers(model, settings, machine.world)
    if start.stored is not None:
        optimizers.load_state(start.stored.optimizer)
    return average, optimizers


def starting_model(start: StartingPoint, settings: TrainSettings, config: GPTConfig) -> GPT:
    """Return a fresh model, or one with the weights that the run starts from, its context cropped where asked for."""
    if start.parent is None:
        return fresh_model(settings, config)
    options = {"dropout": settings.dropout, "attn_path": settings.attn_path}
    source = start.base or start.parent
    state = source.build().state_dict()  # built anew: kept with the source, it would stay in memory
    if settings.block_size < config.block_size and "position_embedding.weight" in state:
        state["position_embedding.weight"] = state["position_embedding.weight"][: settings.block_size]
    config = replace(source.config, block_size=settings.block_size, kernel=config.kernel)
    model = GPT(config, seed=None, **options)  # type: ignore[arg-type]
    own = {name: tensor for name, tensor in model.state_dict().items() if name.endswith(OF_KERNELS)}
    state = {name: tensor for name, tensor in state.items() if name in own or not name.endswith(OF_KERNELS)}
    model.load_state_dict(own | state)
    return with_adapters(model, settings)


def fresh_model(settings: TrainSettings, config: GPTConfig, number: int = 0) -> GPT:
    """Return a fresh model; of those that a run trains, the one with this number."""
    return GPT(
        config,
        seed=settings.seed + number,
        zero_projections=settings.zero_init,
        induction=settings.induction_init,
        dropout=settings.dropout,
        attn_path=str(settings.attn_path),
    )


OF_KERNELS = (".log_tau.weight", ".gain.weight")
"""Parameters that a model begins with, or leaves behind, where it goes on with another attention kernel."""
