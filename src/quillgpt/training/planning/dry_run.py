"""`--dry_run`: what a run would do, without doing it: its data, size, memory and time, and where it would write.

Of several processes, one is tried alone with its part of the batch; what they send each other is counted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from quillgpt import console
from quillgpt.config import Given
from quillgpt.config.schema import ChosenSettings, TrainSettings
from quillgpt.device import Memory, memory, peak
from quillgpt.distributed import ALONE, World
from quillgpt.distributed.launch import process_count
from quillgpt.errors import UserError
from quillgpt.files import nearest_existing
from quillgpt.model import GPTConfig, empty_model
from quillgpt.model.cost import FLOAT32_BYTES, TrainingMemory, training_flops_per_token
from quillgpt.model.distillation import Teachers
from quillgpt.training.folder.out_dir import check_out_dir, replaced_by
from quillgpt.training.planning import communication, scaling
from quillgpt.training.planning.budget import SHARE_FOR_TRAINING, choose_context, fit_to_budget
from quillgpt.training.planning.dry_run_data import DryRunData, DryRunPart, dry_run_data
from quillgpt.training.planning.scaling import Text
from quillgpt.training.planning.timing import RunTiming, measured_timing, predicted_timing, sequences_to_try
from quillgpt.training.record.report import show_settings
from quillgpt.training.start.adapter_base import with_adapters
from quillgpt.training.start.choices import Machine, choose_paths
from quillgpt.training.start.compile_choice import may_compile
from quillgpt.training.start.memory import fits, lack_of_memory, least_remembered, memory_needed, memory_of_rank
from quillgpt.training.start.model_config import check_range
from quillgpt.training.start.run_data import check_lengths, without_secrets
from quillgpt.training.start.setup import build_model, make_trainable
from quillgpt.training.start.starting_point import StartingPoint, apart_from_parent, find_starting_point
from quillgpt.training.start.teachers import with_teachers
from quillgpt.training.validation import evaluated_blocks

DAY = 86_400


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        settings: With all choices made but that of compilation.
        machine: Device and number format.
        config: Configuration of the model.
        parameters: Its values.
        adapters: Values of the adapters, which alone are trained; 0: all weights are.
        data: What it learns from.
        memory: What a step needs on each rank.
        available: Memory that a rank has; None if unknown.
        timing: How long its parts take, messages left out.
        messages: What a rank sends in an iteration; of ranks that differ, the one that sends most.
        sending: How long that takes in seconds, at an assumed rate.
        sending_basis: The assumption, in words.
        may_compile: Whether the model would or might be compiled.
        first: The iteration that it starts from.
        evaluations: How often it would evaluate.
        parent: The folder of the weights that it starts from, if any.
        obstacle: The error that would keep it from starting; None if nothing would.
    """

    settings: TrainSettings
    machine: Machine
    config: GPTConfig
    parameters: int
    adapters: int
    data: DryRunData
    memory: TrainingMemory
    available: Memory | None
    timing: RunTiming
    messages: list[communication.Message]
    sending: float
    sending_basis: str
    may_compile: bool
    first: int
    evaluations: int
    parent: Path | None
    obstacle: UserError | None

    @property
    def iterations(self) -> int:
        """Iterations that it would do."""
        return 0 if self.settings.eval_only else max(0, self.settings.max_iters - self.first)

    @property
    def taught_iterations(self) -> float:
        """The untaught iterations that take as long, where teachers of its own teach the last model."""
        first, settings = self.first, self.settings
        return scaling.work_until(first + self.iterations, settings) - scaling.work_until(first, settings)

    @property
    def evaluation_seconds(self) -> float:
        """Time of one evaluation: of both splits, and of what is replayed."""
        blocks = 0 if self.data.parts else self._blocks("train", None, 1) + self._blocks("val", None, 1)
        for part in self.data.parts:
            blocks += self._blocks("train", part.train_tokens, part.val_tokens)
            blocks += self._blocks("val", part.val_tokens, part.val_tokens)
        if self.data.replayed_val_tokens:
            blocks += self._blocks("val", self.data.replayed_val_tokens, self.data.replayed_val_tokens)
        return blocks * self.settings.block_size * self.timing.evaluated_token

    @property
    def seconds(self) -> float:
        """Time of the whole run: iterations, evaluations, and at the end the whole validation split."""
        last = 0 if self.settings.eval_only else sum(part.val_tokens for part in self.data.parts)
        return (
            self.taught_iterations * (self.timing.iteration + self.sending)
            + self.evaluations * self.evaluation_seconds
            + last * self.timing.evaluated_token
        )

    @property
    def fits(self) -> bool:
        """Whether an iteration fits into the memory that is free now, as far as that is known."""
        return fits(self.memory, self.available)

    def _blocks(self, split: str, tokens: int | None, val_tokens: int) -> int:
        """Return the blocks that an evaluation takes from a split."""
        settings = self.settings
        wanted = evaluated_blocks(settings, split, (val_tokens - 1) // settings.block_size)
        return wanted if tokens is None else min(wanted, (tokens - 1) // settings.block_size)


def predict_run(settings: TrainSettings) -> DryRun:
    """Return what a run with these settings would do; out_dir and data_dir stay as they are.

    All checks of a run are made. If an iteration fits into the memory, a few are tried.

    Raises:
        UserError: The run could not train.
    """
    settings = apart_from_parent(settings)
    check_out_dir(settings)
    start = find_starting_point(settings, world_of(settings))
    with tempfile.TemporaryDirectory(prefix="quill-", ignore_cleanup_errors=True) as spool:
        return _predict(start, dry_run_data(start, Path(spool)))


def world_of(settings: TrainSettings) -> World:
    """Return the processes of a run, as its first one: those of torchrun, or as many as `devices` says.

    They need not be possible here: `--devices 8` also tells what eight GPUs like this one would do.
    """
    world = World.from_environment()
    if world.size > 1 or settings.devices is None:
        return world
    count = process_count("auto", settings.device) if settings.devices == "auto" else settings.devices
    return World(0, count, 0, count)


def _predict(start: StartingPoint, data: DryRunData) -> DryRun:
    text = Text(data.train_tokens, data.val_tokens, data.tokenizer, data.vocab_size, data.bytes_per_token)
    start = replace(start, settings=without_secrets(start.settings))
    start, config = choose_context(start, text)
    for part in data.parts:
        check_lengths(part.name, part.train_tokens, part.val_tokens, start.settings)
    check_range(start.settings, config)
    start = with_teachers(start, data.tokenizer_fingerprint)
    fitted, config = fit_to_budget(start, text, data.train, config)
    machine, world = start.machine, start.machine.world
    lack = lack_of_memory(fitted, config, machine.device, world)
    settings = choose_paths(fitted, config, machine, measuring=lack is None)
    cropped = replace(config, block_size=settings.block_size)
    model = empty_model(cropped)
    parameters, without_positions = model.parameter_count(), model.parameter_count(positions=False)
    adapters = with_adapters(empty_model(cropped), settings).parameter_count() - parameters

    def memory_for(world: World) -> Callable[[int], TrainingMemory]:
        return memory_needed(settings, cropped, device=machine.device, dtype=machine.dtype, world=world)

    needed = memory_for(world)(settings.micro_batch_size)
    available = memory_of_rank(memory(machine.device), machine.device, world)
    flops = training_flops_per_token(cropped, without_positions)
    own = with_part_of_batch(settings, world)
    timing = predicted_timing(own, flops, peak(machine.device, machine.dtype, machine.allowance).flops_per_second)
    sequences = sequences_to_try(own, timing)
    if sequences and lack is None and fits(memory_for(ALONE)(sequences), available):
        alone = replace(start, machine=replace(machine, world=ALONE))
        built = build_model(alone, own, config)
        _, optimizers = make_trainable(built, alone, own)
        timing = measured_timing(
            built,
            optimizers,
            own,
            alone.machine,
            data.train,
            data.val,
            sequences=sequences,
            teachers=Teachers.of(start.teachers, settings.teacher_share),
        )
    timing = replace(timing, evaluated_token=timing.evaluated_token / world.size)
    messages = communication.of_busiest_rank(with_adapters(empty_model(cropped), settings), settings, world.size)
    interconnect, sending_basis = communication.assumed_interconnect(world, machine.device, settings.backend)
    sending = interconnect.seconds(messages, world.size)
    if settings.minutes is not None and settings.defaults == "fixed" and not start.resumed:
        fitting = max(1, int(60 * settings.minutes * SHARE_FOR_TRAINING / (timing.iteration + sending)))
        if length := settings.teacher_iters:
            fitting = scaling.with_own_teachers(settings, length, fitting).max_iters
        settings = settings.model_copy(update={"max_iters": fitting, "lr_decay_iters": length or fitting})
    return DryRun(
        settings=settings,
        machine=machine,
        config=cropped,
        parameters=parameters,
        adapters=adapters,
        data=data,
        memory=needed,
        available=available,
        timing=timing,
        messages=messages,
        sending=sending,
        sending_basis=sending_basis,
        may_compile=may_compile(settings, cropped, without_positions, machine),
        first=start.state.iteration,
        evaluations=_evaluations(settings, start.state.iteration, start.state.evaluated_iteration),
        parent=start.parent.folder if start.parent else None,
        obstacle=data.obstacle or lack,
    )


def with_part_of_batch(settings: ChosenSettings, world: World) -> ChosenSettings:
    """Return the settings of a run whose global batch is one rank's part of it."""
    if world.size == 1:
        return settings
    share = settings.sequences_per_iteration // world.size
    return settings.model_copy(update={"batch_size": share, "gradient_accumulation_steps": 1})


def show_dry_run(run: DryRun, given: Given | None = None) -> None:
    """Print the settings on standard error, and what the run would do on standard output.

    Args:
        run: What a run would do.
        given: How its settings were given; None: by a program.
    """
    settings, data, needed = run.settings, run.data, run.memory
    show_settings(settings, given or Given(settings), resumed=settings.init_from == "resume")
    about = "" if data.counted else "about "
    tokens = "known once it is prepared"
    passes = tokens
    if data.train_tokens is not None:
        tokens = "; ".join(_describe_part(part, data) for part in data.parts)
        passes = f"{about}{settings.model_iters * settings.tokens_per_iteration / data.train_tokens:.1f}"
        passes += f" for each of {settings.models} models" if settings.models > 1 else ""
    trained = {}
    if run.adapters:
        trained["trained"] = f"{run.adapters:,}: adapters of rank {settings.lora_rank}"
    world = run.machine.world
    together, on_each, whose, parts = {}, "", "", ""
    if world.size > 1:
        on_each, whose = "on each rank ", " for it"
        computing, sending = in_words(run.timing.iteration), in_words(run.sending)
        parts = f" ({computing} of computing, {sending} of messages)"
        together = {"processes": _processes(run), "sent per iteration": _sent(run)}
    rows = {
        "data": data.described,
        "tokens": f"{tokens}, tokenizer {data.tokenizer} of {'about ' if data.assumed else ''}{data.vocab_size:,}",
        "passes over the data": passes,
        "parameters": f"{run.parameters:,}",
        **trained,
        "tokens per iteration": f"{settings.tokens_per_iteration:,} = {settings.gradient_accumulation_steps} x "
        f"{settings.batch_size} sequences x {settings.block_size} tokens; "
        f"{settings.max_iters * settings.tokens_per_iteration:,} in all",
        "device": f"{run.machine.description}, {settings.dtype}, threads: {settings.threads}, "
        f"attention {settings.attn_path}, " + _compilation(run),
        **together,
        "memory": f"{on_each}{decimal(needed.total)}: weights {decimal(needed.weights)}, gradients "
        f"{decimal(needed.gradients)}, optimizer {decimal(needed.optimizer)}, activations of "
        f"{settings.micro_batch_size} sequences {decimal(needed.activations)}"
        + (f", gathered for a moment {decimal(needed.gathered)}" if needed.gathered else "")
        + f"; {_availability(run.available, whose)}",
        "time": f"about {in_words(run.seconds)}: {run.iterations:,} iterations of "
        f"{in_words(run.timing.iteration + run.sending)}{parts}, "
        f"{run.evaluations:,} evaluations of {in_words(run.evaluation_seconds)}",
        "estimated by": _basis(run),
        "start": _start(run),
        "would write": _destination(run),
    }
    console.table("dry run: nothing was written, and this is what would happen", rows, console=console.stdout)
    if not run.fits:
        console.warn(
            f"a step needs about {decimal(needed.total)}, and {_availability(run.available)}; try "
            "--micro_batch_size=1, a shorter --block_size or a smaller model"
        )


def _processes(run: DryRun) -> str:
    """Return how several processes share a run."""
    settings, world = run.settings, run.machine.world
    share = settings.sequences_per_iteration // world.size
    machines = "on one machine" if world.local_size == world.size else f"{world.local_size} of them on this machine"
    return f"{world.size} ranks {machines}, {settings.strategy}, each with {share} sequences of an iteration"


def _sent(run: DryRun) -> str:
    """Return what a rank sends in an iteration."""
    size = run.machine.world.size
    by_purpose = [f"{message.purpose} {decimal(round(message.sent(size)))}" for message in run.messages]
    return f"{decimal(round(communication.total_sent(run.messages, size)))} by each rank: {', '.join(by_purpose)}"


def _basis(run: DryRun) -> str:
    """Return what the time is estimated from."""
    if run.machine.world.size == 1:
        return f"{run.timing.basis}; saving comes on top"
    return (
        f"one rank alone, {run.timing.basis}; messages are assumed: {run.sending_basis}, none of them while it "
        "computes (measure the rate with quill bench allreduce); saving comes on top"
    )


def _describe_part(part: DryRunPart, data: DryRunData) -> str:
    """Return how many tokens a data set has and, in a mixture, its share."""
    train, val = (
        f"{count if data.counted else float(f'{count:.3g}'):,.0f}" for count in (part.train_tokens, part.val_tokens)
    )
    which = f"{part.share:.4g} of {part.name}, with " if len(data.parts) > 1 else ""
    return f"{which}{'' if data.counted else 'about '}{train} train and {val} val tokens"


def in_words(seconds: float) -> str:
    """Write a duration with two digits in the unit that suits it: `35 ms`, `1.2 s`, `3.5 hours`, `12 days`.

    humanize would write `3 hours` or `3 hours and 30 minutes`.
    """
    for size, unit in ((365 * DAY, "years"), (DAY, "days"), (3600, "hours"), (60, "minutes"), (1, "s")):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            count = seconds / size
            return f"{count:,.0f} {unit}" if count >= 9.5 else f"{count:.1f} {unit}"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f} ms" if milliseconds >= 9.5 else f"{milliseconds:.1f} ms"


def _evaluations(settings: TrainSettings, first: int, evaluated: int | None) -> int:
    """Count the evaluations: one every eval_interval iterations and one at the end. A resumed run repeats none."""
    if settings.eval_only:
        return 1
    last, interval = max(first, settings.max_iters), settings.eval_interval
    due = last // interval - (first - 1) // interval + (last % interval > 0)
    if (length := settings.teacher_iters) and length % interval:  # each model is evaluated at its end
        ends = range(length, last, length)
        due += sum(end > first and end % interval > 0 for end in ends)
    repeated = evaluated is not None and first <= evaluated <= last and (evaluated % interval == 0 or evaluated == last)
    return due - repeated


def _availability(available: Memory | None, whose: str = "") -> str:
    if available is None:
        return "the system does not tell how much there is"
    return f"there are {decimal(available.total)}{whose}, {decimal(available.free)} of it free"


def _compilation(run: DryRun) -> str:
    if not run.may_compile:
        return "not compiled"
    return "compiled" if run.settings.compile is True else "compiled where that gains more time than it takes"


def _start(run: DryRun) -> str:
    if run.settings.eval_only:
        return f"evaluation only, of {run.parent or 'fresh weights'}"
    return f"iteration {run.first:,} of {run.settings.max_iters:,}, " + (
        f"from {run.parent}" if run.parent else "fresh weights"
    )


def _destination(run: DryRun) -> str:
    settings, out_dir = run.settings, Path(run.settings.out_dir)
    if settings.eval_only:
        return "nothing"
    what = "new"
    if out_dir.exists():
        what = "goes on" if settings.init_from == "resume" else "is there, without a checkpoint"
        if gone := replaced_by(settings):
            what = f"{', '.join(gone)} of an earlier run would be removed once this one has saved a checkpoint"
    values = settings.models + least_remembered(settings, run.config)
    kept = max(4, 2 + settings.keep_last if settings.always_save_checkpoint else 0)  # as `Checkpointer.save` prunes
    return (
        f"{out_dir} ({what}); a checkpoint has about {decimal(values * FLOAT32_BYTES * run.parameters)}, at most "
        f"{kept} are kept, and {decimal(shutil.disk_usage(nearest_existing(out_dir)).free)} are free"
    )


def check_dry_run(run: DryRun) -> None:
    """Check that nothing would keep the run from starting.

    Raises:
        UserError: Something would.
    """
    if run.obstacle is not None:
        raise run.obstacle
