"""From a text and some minutes to a model and a length: a few iterations are timed, and rules do the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

from rich.filesize import decimal

from quillgpt.config.schema import MOST_MODELS, TrainSettings
from quillgpt.console import clock_time, say
from quillgpt.data.batches import Tokens
from quillgpt.device import memory, peak, times_of_calls
from quillgpt.distributed import ALONE
from quillgpt.measuring import Allowance
from quillgpt.model import GPT, GPTConfig
from quillgpt.model.distillation import Teachers
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.training.pace import LEAST_SHARE
from quillgpt.training.planning import scaling
from quillgpt.training.planning.scaling import Cost, Text, cost_of
from quillgpt.training.planning.timing import TRIED_SECONDS, trial_step
from quillgpt.training.start.choices import CPU_TOKENS_AT_ONCE, EXPECTED_UTILISATION, Machine, choose_paths
from quillgpt.training.start.memory import check_memory, fits, memory_needed, memory_of_rank
from quillgpt.training.start.model_config import choose_config, config_for
from quillgpt.training.start.starting_point import StartingPoint

USUAL_MINUTES = 3.0
"""Time for a run that was given neither minutes nor iterations."""

SHARE_FOR_TRAINING = 0.85
"""Share of the minutes that is left for iterations besides starting, evaluating and saving; the run corrects it."""

USUAL_START = 0.1
"""Share of the minutes after which the text is ready at the latest, as a rule; else the model is smaller."""

MOST_MEASUREMENTS = 3

TRIAL_SECONDS, TRIAL_SHARE = 1.0, 0.003
"""Iterations whose mean is the speed: those of so many seconds, or of this share of the minutes if that is more. Other
programs that compute slow some of them down, so the fastest one would tell nothing."""

SHARE_OF_A_TRIAL = 1 / 3
"""Share of the time for measurements that each trial may take."""

ADAPTER_RANK = 16
"""Rank of the adapters that are trained where there is no memory to train all weights."""

SLOWEST = 4.0
"""How much slower than usual a machine that other programs use is feared to be, before anything was tried."""


ASSUMED, TRIED, REACHED = (
    "no step could be tried in time, and one is assumed at",
    "the few steps that were tried ran at",
    "the first iterations ran at",
)


@dataclass(frozen=True)
class Speed:
    """How fast a run computes.

    Attributes:
        rate: Operations per second of all ranks.
        basis: How it is known.
    """

    rate: float
    basis: str = ASSUMED


def choose_context(start: StartingPoint, text: Text) -> tuple[StartingPoint, GPTConfig | None]:
    """Choose the context, where `defaults` is scaled and it is not set; later checks need it.

    Args:
        start: What the run starts from.
        text: What it learns from.

    Returns:
        What the run starts from, with the context in its settings, and the configuration of the model that is there;
        None for a model from scratch.

    Raises:
        ConfigError: The settings ask for another model than the one that the run starts from.
    """
    parent = start.parent.config if start.parent else None
    if not (start.resumed or start.settings.defaults == "fixed"):
        start.machine.because(
            f"{scaling.LONGEST_BLOCK} tokens, or the most that fit {scaling.BLOCKS_OF_A_SPLIT} times into each split "
            "and into the model that it begins from",
            "block_size",
        )
        settings = scaling.with_block(start.settings, text, parent.block_size if parent else None)
        start = replace(start, settings=settings)
    if parent is None:
        return start, None
    settings, config = choose_config(start, text.tokenizer, text.vocab_size)
    return replace(start, settings=settings), config


def fit_to_budget(
    start: StartingPoint,
    text: Text,
    train: Tokens,
    config: GPTConfig | None,
    *,
    passed: float = 0.0,
    speed: Speed | None = None,
) -> tuple[TrainSettings, GPTConfig]:
    """Choose the settings that are not set, where `defaults` is scaled, and say what was chosen and why.

    A resumed run keeps its settings. A few iterations are timed here where the speed is not known, so all checks must
    have been made before.

    Args:
        start: What the run starts from, with its context.
        text: What it learns from.
        train: Tokens to measure steps on.
        config: Configuration of the model that it starts from; None for one from scratch.
        passed: Seconds of its minutes that are over.
        speed: The speed that the run has reached with a model of another size; None: not known.

    Returns:
        The settings, and the configuration of the model.

    Raises:
        ConfigError: The settings ask for fewer rows than the tokenizer has, or for more memory than there is.
    """
    settings, machine = start.settings, start.machine
    teachers = Teachers.of(start.teachers, settings.teacher_share)
    if start.resumed or settings.defaults == "fixed":
        return settings, config or config_for(settings, text.tokenizer, text.vocab_size)
    if not settings.model_fields_set & {"minutes", "max_iters"}:
        settings = settings.model_copy(update={"minutes": USUAL_MINUTES})
    settings = scaling.with_learning_rates(settings, finetuning=config is not None)
    share = "" if config is None else f", times {scaling.FINETUNING_SHARE:g} where a model is finetuned"
    machine.because(f"the rate of the rules{share}", "learning_rate", "muon_learning_rate")
    minutes = USUAL_MINUTES if settings.minutes is None else _minutes_left(settings.minutes, passed)
    machine.allowance.left = min(machine.allowance.left, Allowance(minutes).left)
    seconds = 60 * minutes * SHARE_FOR_TRAINING
    if config is None:
        settings, config, speed = _with_size(settings, text, seconds, train, machine, speed, teachers)
    else:
        settings = _with_adapters(settings, config, machine)
        tried = replace(config, block_size=settings.block_size)
        tokens = _tokens_of_iteration(settings, text, tried, seconds * usual_rate(machine), machine)
        measured = measured_rate(settings, tried, train, machine, tokens, teachers=teachers)
        speed = Speed(usual_rate(machine)) if measured is None else Speed(measured, TRIED)
    cost = cost_of(config)
    settings = scaling.with_schedule(settings, text, cost, seconds * speed.rate, machine.world.size)
    _explain(settings, text, cost, speed, machine)
    return settings, config


def _minutes_left(minutes: float, passed: float) -> float:
    """Return for how many minutes to plan a run after some seconds of them, and say so if a usual start takes less."""
    late = passed - USUAL_START * 60 * minutes
    if late <= 0:
        return minutes
    say(f"{clock_time(passed)} of the {minutes:g} min are over; the rest decides how large the model is")
    return max(LEAST_SHARE * minutes, minutes - late / 60)


def measured_rate(
    settings: TrainSettings,
    config: GPTConfig,
    train: Tokens,
    machine: Machine,
    tokens: int,
    known: float | None = None,
    teachers: Teachers | None = None,
) -> float | None:
    """Try iterations of a new model for a while and return its training operations per second.

    One sequence is tried first, and then as many as there is time for. If even one could take too long, nothing is
    tried. Of several ranks, one is timed alone, and all are assumed to be as fast: what they send each other costs time
    that only the run itself shows.

    Args:
        settings: The run's.
        config: Configuration of its model.
        train: Tokens to train on.
        machine: Device and number format.
        tokens: Tokens of an iteration, at most: a GPU computes few of them hardly faster than many.
        known: What a model of another size has reached, if one was tried.
        teachers: The models that teach it, if any; their operations do not count.

    Returns:
        The operations per second of all ranks; None if there is no time to try.

    Raises:
        ConfigError: There is not enough memory for it, whatever is done.
    """
    check_memory(settings, config, machine.device, machine.world)
    ranks, machine = machine.world.size, replace(machine, world=ALONE)
    flops = cost_of(config).flops_per_token
    fitting = int(TRIED_SECONDS * usual_rate(machine) / flops)
    feared = config.block_size * flops / (known / ranks if known else usual_rate(machine) / SLOWEST)
    if config.block_size > fitting or feared > SHARE_OF_A_TRIAL * machine.allowance.left:
        return None
    say("trying a few steps, to see how fast they are")
    most = max(1, min(fitting, CPU_TOKENS_AT_ONCE if machine.device.type == "cpu" else tokens) // config.block_size)
    batch = {"batch_size": most, "gradient_accumulation_steps": 1, "compile": False}
    settings = choose_paths(settings.model_copy(update=batch), config, machine)
    with machine.allowance.spending(SHARE_OF_A_TRIAL) as seconds:
        model = GPT(config, dropout=settings.dropout, attn_path=str(settings.attn_path), seed=settings.seed)
        optimizers = make_optimizers(model.to(machine.device), settings)

        def times(sequences: int, seconds: float, within: float) -> list[float]:
            micro_batch = {"batch_size": sequences, "micro_batch_size": min(sequences, settings.micro_batch_size)}
            tried = settings.model_copy(update=micro_batch)
            step = trial_step(model, optimizers, train, tried, machine, teachers)
            return times_of_calls(lambda: step(0), machine.device, seconds=seconds, within=within)

        tried = times(1, seconds=0.0, within=seconds / 4)
        fitting = int(seconds / 4 / min(tried))
        sequences = max(1, min(most, fitting))
        if fitting:
            enough = max(TRIAL_SECONDS, TRIAL_SHARE * 60 * (settings.minutes or USUAL_MINUTES))
            tried = times(sequences, seconds=enough, within=seconds / 2)
    return ranks * sequences * config.block_size * flops / fmean(tried[1:] or tried)


def _tokens_of_iteration(settings: TrainSettings, text: Text, config: GPTConfig, flops: float, machine: Machine) -> int:
    """Return the tokens of an iteration of a run that can do so many operations."""
    planned = scaling.with_schedule(settings, text, cost_of(config), flops, machine.world.size)
    return planned.tokens_per_iteration // machine.world.size


def _with_adapters(settings: TrainSettings, config: GPTConfig, machine: Machine) -> TrainSettings:
    """Choose adapters where all weights of the model are too many for the memory and nobody has said what to train."""
    available = memory_of_rank(memory(machine.device), machine.device, machine.world)
    usual = settings.model_copy(update={"attn_path": "explicit"})
    needed = memory_needed(usual, config, device=machine.device, dtype=machine.dtype, world=machine.world)(1)
    if "lora_rank" in settings.model_fields_set or fits(needed, available):
        return settings
    reason = (
        f"training all weights would take {decimal(needed.total)} of memory, so adapters of rank {ADAPTER_RANK} are "
        "trained, by adamw"
    )
    say(f"{reason}; --lora_rank=0 trains all")
    machine.because(reason, "lora_rank", "optimizer", "ema_decay")
    return settings.model_copy(update={"lora_rank": ADAPTER_RANK, "optimizer": "adamw", "ema_decay": 0.0})


def usual_rate(machine: Machine) -> float:
    """Return the operations per second that all ranks of a run usually reach, from the peak rate of one."""
    rate = peak(machine.device, machine.dtype, machine.allowance).flops_per_second
    return machine.world.size * rate * EXPECTED_UTILISATION


def _with_size(
    settings: TrainSettings,
    text: Text,
    seconds: float,
    train: Tokens,
    machine: Machine,
    known: Speed | None,
    teachers: Teachers | None,
) -> tuple[TrainSettings, GPTConfig, Speed]:
    """Choose a size for a known speed; else for a guessed one, measure it, and choose again until both agree.

    Where there is no time to try a size, it is assumed to have the speed of the one before.
    """
    speed = known or Speed(usual_rate(machine))
    config: GPTConfig | None = None
    for _ in range(MOST_MEASUREMENTS):
        sized = scaling.with_size(settings, text, seconds * speed.rate)
        chosen = config_for(sized, text.tokenizer, text.vocab_size)
        if chosen == config or known is not None:
            break
        config = chosen
        tokens = _tokens_of_iteration(sized, text, config, seconds * speed.rate, machine)
        before = speed.rate if speed.basis == TRIED else None
        measured = measured_rate(sized, config, train, machine, tokens, before, teachers)
        if measured is not None:
            speed = Speed(measured, TRIED)
    return sized, chosen, speed


def _explain(settings: TrainSettings, text: Text, cost: Cost, speed: Speed, machine: Machine) -> None:
    """Say what the rules have chosen and why, and note that for the report."""
    ranks, in_iteration, parameters = machine.world.size, settings.tokens_per_iteration, cost.parameters
    tokens = settings.model_iters * in_iteration
    passes = scaling.passes_over(settings, text)
    length = f"{settings.max_iters:,} iterations"
    time = length if settings.minutes is None else f"{settings.minutes:g} min"
    assumed = "" if ranks == 1 else f" on one rank, and {ranks} ranks are assumed to be {ranks} times as fast"
    measured = (
        f"chosen for {time}; {speed.basis} {speed.rate / ranks / 1e12:.2g} TFLOP/s{assumed}, "
        f"{speed.rate / cost.flops_per_token:,.0f} tokens/s"
    )
    size = (
        f"a model of {parameters:,} parameters, each with {tokens * text.bytes_per_token / parameters:.1f} bytes of "
        f"text to learn from: {scaling.BYTES_PER_PARAMETER:g} are wanted, and no more than "
        f"{scaling.MOST_PARAMETERS_PER_TOKEN:g} parameters for each token of it"
    )
    read = "" if passes is None else f", {passes:.1f} passes over the text"
    length = f"{settings.model_iters:,} iterations of {in_iteration:,} tokens{read}"
    if settings.models > 1:
        teachers = "a teacher, and one that it teaches" if settings.models == 2 else "teachers, and one that they teach"
        length += f", for each of {settings.models} models: {teachers}"
    say(f"{measured}:")
    say(f"  {size}")
    say(f"  {length}, dropout {settings.dropout:g}, weight decay {settings.weight_decay:g}")
    ends_early = ""
    enough = scaling.enough_iterations(settings, text.train_tokens) if text.train_tokens else None
    if settings.minutes is not None and settings.model_iters == enough and settings.models in (1, MOST_MODELS):
        ends = "so the run ends" if settings.models == 1 else "and the run may end"
        ends_early = f"{scaling.MOST_PASSES} passes are as many as help, {ends} before its time"
        say(f"  {ends_early}; more text would help")
    machine.because(f"{measured} with {settings.n_layer} x {settings.n_embd}: {size}", "n_layer")
    machine.because("goes with n_layer", "n_embd", "n_head")
    clock = "" if settings.minutes is None else "; " + (ends_early or "the clock corrects it on the way")
    machine.because(f"planned: {length}{clock}", "max_iters")
    machine.because("for the length that was planned", "batch_size", "gradient_accumulation_steps")
    if settings.models > 1:
        reason = "a model reads the text as often as helps, and there is time for others, which teach the last one"
        machine.because(f"{reason}; at most {MOST_MODELS} are trained", "teacher_iters")
    crowding = (
        "" if not text.train_tokens else f", {parameters / text.train_tokens:.2g} parameters for each token of it"
    )
    machine.because(f"{passes or 0:.1f} passes over the text{crowding}", "dropout", "weight_decay")
    whole = "run" if settings.models == 1 else "model"
    machine.because(f"the length of the {whole}", "lr_decay_iters")
    machine.because(f"{scaling.WARMUP_SHARE:.0%} of the {whole}, at most {scaling.LONGEST_WARMUP}", "warmup_iters")
    machine.because(f"{scaling.EVALUATIONS} evaluations in the {whole}", "eval_interval")
    machine.because(f"{scaling.LINES_OF_THE_LOG} lines in the log of the {whole}", "log_interval")
    evaluated = (
        f"{scaling.EVALUATED_TOKENS:,} tokens of each split, at most {scaling.EVALUATED_SHARE:.1%} of those trained on"
    )
    machine.because(evaluated, "eval_iters")
