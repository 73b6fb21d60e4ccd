"""Where a run starts from: fresh weights, another model, or its own last checkpoint; in a folder that is free."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from quillgpt.checkpoint import LoadedModel, StoredTraining, TrainingState, load_run
from quillgpt.checkpoint.names import checkpoints_folder, has_checkpoint, iteration_name
from quillgpt.checkpoint.recover import is_whole
from quillgpt.config.schema import CHOSEN, TrainSettings
from quillgpt.console import say, warn
from quillgpt.distributed import ALONE, World
from quillgpt.errors import CheckpointError, ConfigError
from quillgpt.interop import find_nanogpt_file, holds_model, open_model
from quillgpt.model import GPT
from quillgpt.training.folder.out_dir import check_earlier_run
from quillgpt.training.record.loggers import check_loggers
from quillgpt.training.samples import check_samples
from quillgpt.training.start.adapter_base import find_base
from quillgpt.training.start.choices import Machine, choose_machine

FINETUNING_PATIENCE = 5
"""Evaluations without improvement after which finetuning stops: a pretrained model soon overfits a small text."""


@dataclass(frozen=True)
class StartingPoint:
    """Where a run starts from, known before its data is opened.

    Attributes:
        settings: With a value in place of `auto` for the machine.
        machine: Device and number format.
        parent: The model that it starts from, or its own last checkpoint, if any.
        stored: What its own last checkpoint holds besides the model; None unless it is resumed.
        base: The model that the adapters of a resumed run belong to; None where it has none.
        teachers: The models that teach it, if any; found when its tokenizer is known.
        teacher_hashes: Hashes of their weights, by their names in the settings.
    """

    settings: TrainSettings
    machine: Machine
    parent: LoadedModel | None
    stored: StoredTraining | None
    base: LoadedModel | None = None
    teachers: tuple[GPT, ...] = ()
    teacher_hashes: dict[str, str] = field(default_factory=dict)

    @property
    def resumed(self) -> bool:
        """Whether it goes on from its own last checkpoint."""
        return self.stored is not None

    @property
    def state(self) -> TrainingState:
        """Where the run is."""
        if self.stored:
            return self.stored.state
        return TrainingState(dropout_by_sequence=True, loss_in_parts=True, fused_rest=True)


def find_starting_point(settings: TrainSettings, world: World = ALONE) -> StartingPoint:
    """Load what a run starts from, and choose its machine.

    Args:
        settings: The run's, after `apart_from_parent` and `check_out_dir`.
        world: The processes that train it.

    Raises:
        UserError: out_dir holds another run, or something that the run needs is missing.
    """
    check_loggers(settings)
    check_samples(settings, world)
    check_earlier_run(settings)
    name_neighbour(settings)
    parent, stored = load_parent(settings)
    base = None
    if stored is not None:
        forget_lost_best(stored.state, Path(settings.out_dir))
        settings = adopt_choices(settings, stored.state, world)
        base = find_base(settings, stored.state)
        if settings.teacher_iters and stored.state.settings.get("init_from", "scratch") != "scratch":
            raise ConfigError(
                f"teacher_iters = {settings.teacher_iters} begins models from fresh weights, and the run in "
                f"{settings.out_dir} began from {stored.state.settings['init_from']}; leave it out"
            )
    if settings.patience is None:
        patience = FINETUNING_PATIENCE if parent is not None and stored is None else 0
        settings = settings.model_copy(update={"patience": patience})
    settings, machine = choose_machine(settings, world)
    machine.because("a model that is finetuned soon fits its text too well; others train to the end", "patience")
    return StartingPoint(settings, machine, parent, stored, base)


def forget_lost_best(state: TrainingState, out_dir: Path) -> None:
    """Forget the best evaluation of a resumed run if its checkpoint is damaged or gone."""
    if state.best_iteration in (None, state.iteration):
        return
    best = checkpoints_folder(out_dir) / iteration_name(state.best_iteration or 0)
    if is_whole(best):
        return
    warn(f"{best}, the best checkpoint so far, is damaged or gone; the best is looked for from here on")
    state.best_val_loss = state.best_iteration = state.best_train_loss = state.evaluated_iteration = None
    state.evaluations_since_best = 0


def apart_from_parent(settings: TrainSettings) -> TrainSettings:
    """Turn `--init_from=finetune --out_dir=DIR` into a run beside DIR that starts from the best model of DIR.

    Raises:
        CheckpointError: DIR holds no model.
    """
    if settings.init_from != "finetune":
        return settings
    parent = settings.out_dir
    if not holds_model(Path(parent)):
        raise CheckpointError(
            f"{parent} holds no model to finetune; train it first, give another --out_dir, or name a model to start "
            "from: --init_from=MODEL"
        )
    out_dir = parent.rstrip("/\\") + "-finetuned"
    say(f"finetuning {parent}, which stays as it is; the new run is {out_dir}")
    return settings.model_copy(update={"init_from": parent, "out_dir": out_dir})


def name_neighbour(settings: TrainSettings) -> None:
    """Say that a new run shares its folder with another program's run, and that its path means the new one."""
    file = find_nanogpt_file(Path(settings.out_dir))
    if file is not None and settings.init_from != "resume" and not settings.eval_only:
        say(f"{file} is a checkpoint of nanoGPT's and stays; {settings.out_dir} means the new run from now on")


def load_parent(settings: TrainSettings) -> tuple[LoadedModel | None, StoredTraining | None]:
    """Load the model that `init_from` names, and the training state of a run that is resumed; nothing for `scratch`.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    if settings.init_from == "scratch":
        return None, None
    if settings.init_from == "resume":
        if (file := find_nanogpt_file(Path(settings.out_dir))) is not None:
            raise CheckpointError(
                f"{file} is a run of nanoGPT's, whose optimizer Quill does not take over; start a new run from its "
                f"weights with --init_from={file} and another --out_dir"
            )
        if not has_checkpoint(Path(settings.out_dir)):
            raise CheckpointError(
                f"{settings.out_dir} holds no checkpoint to resume; train it first, without --init_from=resume"
            )
        return load_run(Path(settings.out_dir), dropout=settings.dropout)
    return open_model(settings.init_from, data_dir=Path(settings.data_dir), dropout=settings.dropout), None


def adopt_choices(settings: TrainSettings, state: TrainingState, world: World) -> TrainSettings:
    """Keep a resumed run's automatic choices, unless the user sets others; several processes record no CUDA graph."""
    chosen = {name for name in CHOSEN if getattr(settings, name) in ("auto", None)}
    if settings.defaults == "scaled":  # then whatever nobody has set was chosen
        chosen |= type(settings).model_fields.keys() - settings.model_fields_set
    if world.size > 1:
        chosen.discard("cuda_graph")
    return settings.model_copy(update={name: state.settings[name] for name in chosen & state.settings.keys()})
