"""From a text and some minutes to a model and a length: a few steps are measured, and rules do the rest."""

from __future__ import annotations

import math
from dataclasses import replace

from quillgpt.config.schema import TrainSettings
from quillgpt.console import say
from quillgpt.data.batches import Tokens
from quillgpt.device import peak, seconds_per_call
from quillgpt.model import GPT, ModelShape
from quillgpt.optim.optimizers import make_optimizers
from quillgpt.training.choices import CPU_TOKENS_AT_ONCE, EXPECTED_UTILISATION, Machine, choose_paths
from quillgpt.training.origin import Origin
from quillgpt.training.planning import scaling
from quillgpt.training.planning.scaling import Text, cost_of
from quillgpt.training.shape import shape_for
from quillgpt.training.step import TrainStep

USUAL_MINUTES = 3.0
"""Time for a run that was given neither minutes nor iterations."""

SHARE_FOR_TRAINING = 0.85
"""Of the minutes; the rest is starting, evaluating and saving. The run corrects it as it goes."""

MOST_MEASUREMENTS = 3


def fit_to_budget(origin: Origin, text: Text, train: Tokens) -> Origin:
    """Fill in what nobody has set, where `defaults` is scaled, and say what was chosen and why.

    A run that goes on keeps what it has.

    Args:
        origin: What the run starts from.
        text: What it learns from.
        train: Tokens to measure steps on.
    """
    settings, machine = origin.settings, origin.machine
    if origin.resumed or settings.defaults == "fixed":
        return origin
    if not settings.model_fields_set & {"minutes", "max_iters"}:
        settings = settings.model_copy(update={"minutes": USUAL_MINUTES})
    parent = origin.parent.shape if origin.parent else None
    settings = scaling.with_block(settings, text, parent.block_size if parent else None)
    settings = scaling.with_learning_rates(settings, finetuning=parent is not None)
    seconds = 60 * (settings.minutes or USUAL_MINUTES) * SHARE_FOR_TRAINING
    if parent is None:
        settings, shape, rate = _with_size(settings, text, seconds, train, machine)
    else:
        shape = replace(parent, block_size=settings.block_size)
        rate = measured_rate(settings, shape, train, machine)
    cost = cost_of(shape)
    tokens = min(seconds * rate / cost.flops_per_token, scaling.MOST_PASSES * (text.train_tokens or math.inf))
    settings = scaling.with_batch(settings, tokens)
    enough = None if text.train_tokens is None else scaling.enough_iterations(settings, text.train_tokens)
    if settings.minutes is not None:
        fitting = max(1, int(tokens / settings.tokens_per_iteration))
        length = min(fitting, enough or fitting)
        settings = settings.model_copy(update={"max_iters": length, "lr_decay_iters": length})
    passes, crowding = None, 0.0
    if text.train_tokens is not None:
        passes = settings.max_iters * settings.tokens_per_iteration / text.train_tokens
        crowding = cost.parameters / text.train_tokens
    settings = scaling.with_rhythm(scaling.with_regularization(settings, passes or 0.0, crowding))
    _explain(settings, cost.parameters, rate, passes, enough)
    return replace(origin, settings=settings)


def measured_rate(settings: TrainSettings, shape: ModelShape, train: Tokens, machine: Machine) -> float:
    """Do a few steps of a fresh model and return the operations of training that it does in a second.

    Args:
        settings: The run's.
        shape: The shape of its model.
        train: Tokens to train on.
        machine: Device and number format.
    """
    at_once = CPU_TOKENS_AT_ONCE if machine.device.type == "cpu" else scaling.MOST_TOKENS
    batch = {"batch_size": max(1, at_once // shape.block_size), "gradient_accumulation_steps": 1, "compile": False}
    settings = choose_paths(settings.model_copy(update=batch), shape, machine)
    model = GPT(shape, dropout=settings.dropout, attn_path=str(settings.attn_path), seed=settings.seed)
    model.to(machine.device)
    step = TrainStep(model, make_optimizers(model, settings), train, settings, machine)
    return (
        settings.tokens_per_iteration
        * cost_of(shape).flops_per_token
        / seconds_per_call(lambda: step(0), machine.device)
    )


def _with_size(
    settings: TrainSettings, text: Text, seconds: float, train: Tokens, machine: Machine
) -> tuple[TrainSettings, ModelShape, float]:
    """Choose a size by a guess of the machine's rate, measure the rate, and choose again until both agree."""
    rate = peak(machine.device, machine.dtype).flops_per_second * EXPECTED_UTILISATION
    shape: ModelShape | None = None
    for _ in range(MOST_MEASUREMENTS):
        sized = scaling.with_size(settings, text, seconds * rate)
        chosen = shape_for(sized, text.tokenizer, text.vocab_size)
        if chosen == shape:
            break
        shape = chosen
        rate = measured_rate(sized, shape, train, machine)
    return sized, chosen, rate


def _explain(settings: TrainSettings, parameters: int, rate: float, passes: float | None, enough: int | None) -> None:
    tokens = settings.max_iters * settings.tokens_per_iteration
    length = f"{settings.max_iters:,} iterations"
    time = length if settings.minutes is None else f"{settings.minutes:g} min"
    say(f"chosen for {time}; the few steps that were tried ran at {rate / 1e12:.2g} TFLOP/s:")
    say(
        f"  a model of {parameters:,} parameters, each with {tokens / parameters:.1f} tokens to learn from: "
        f"{scaling.TOKENS_PER_PARAMETER:g} are wanted, and no more than {scaling.MOST_PARAMETERS_PER_TOKEN:g} "
        "parameters for each token of the text"
    )
    read = "" if passes is None else f", {passes:.1f} passes over the text"
    say(
        f"  {length} of {settings.tokens_per_iteration:,} tokens{read}, dropout {settings.dropout:g}, weight decay "
        f"{settings.weight_decay:g}"
    )
    if settings.minutes is not None and settings.max_iters == enough:
        say(
            f"  {scaling.MOST_PASSES} passes are as many as help, so the run ends before its time; more text would help"
        )
