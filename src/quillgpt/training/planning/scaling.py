"""Rules for settings that are not set: a run's size, batch, learning rates, regularization and intervals.

They follow from the text and from the operations that there is time for. They were fitted to tiny Shakespeare;
docs/recipes.md has the measurements.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from quillgpt.config.schema import MOST_MODELS, TrainSettings
from quillgpt.data.mixture import Mixture
from quillgpt.model import GPTConfig, count_parameters
from quillgpt.model.cost import FORWARD_SHARE, training_flops_per_token
from quillgpt.training.start.model_config import config_for

SIZES = ((2, 48), (3, 64), (3, 96), (3, 128), (4, 160), (4, 192), (5, 256), (6, 384), (8, 512), (12, 768))
"""Blocks and width, small to large; each costs one and a half to four times as much as the one before."""

NARROW_HEADS, WIDE_HEADS, NARROW_MODELS = 32, 64, 160
"""Width of a head in models up to this width, and in wider ones, where narrow heads cost more than they bring."""

USUAL_VOCABULARY, USUAL_BYTES_PER_TOKEN, USUAL_FLOPS = 1024, 2.7, 5e13
"""The tokenizer of a book, and two or three minutes of two processor cores."""

SAMPLED_TOKENS = 100_000
"""Tokens at the beginning of a text that tell how many bytes a token has."""

BYTES_PER_PARAMETER = 8.0
"""Bytes of text, repeated ones included, that a model should see for each of its parameters."""

MOST_PARAMETERS_PER_TOKEN = 5.0
"""Parameters per token of the text; a larger model overfits a short text, and the sooner the more a token tells."""

MOST_PASSES = 40
"""Passes over a text after which further ones do not help, whatever the regularization."""

LONGEST_BLOCK, SHORTEST_BLOCK = 256, 32
BLOCKS_OF_A_SPLIT = 4
"""Blocks that every split should hold at least."""

FEWEST_ITERATIONS, USUAL_ITERATIONS = 2000, 6000
FEWEST_TOKENS, USUAL_TOKENS, MOST_TOKENS = 1024, 2048, 16384
"""A run of more than the fewest iterations has the usual number of tokens in each, and one of more than the usual
iterations more tokens: small batches learn more from the same text, and cost a processor nothing."""

FEWEST_OF_A_SHORT_TEXT, TOKENS_OF_A_SHORT_TEXT = 3500, 512
"""The fewest iterations, and tokens of one, where half of the time is enough to read a text as often as that helps."""

FEW_PASSES = 4
"""Passes over a text that need no regularization."""

REGULARIZATION = ((6, 0.0, 0.1), (25, 0.0, 0.5), (math.inf, 0.1, 0.5))
"""Rows of: passes times parameters per token of the text, at most; dropout; weight decay."""

TOO_SLOW, TOO_FAST = 2.0, 4.0
"""How many times fewer or more operations than a model was chosen for are worth beginning again with another size. A
model that is too large costs more than one that is too small (docs/recipes.md), and beginning again costs seconds."""

FINETUNING_SHARE = 0.1
"""Share of the learning rates from scratch that finetuning has."""

WARMUP_SHARE, LONGEST_WARMUP = 0.03, 200
EVALUATIONS, LINES_OF_THE_LOG = 10, 50
EVALUATED_TOKENS, EVALUATED_SHARE = 50_000, 0.015
"""Tokens of each split that an evaluation takes, and the share of a run's tokens that they are at most."""


@dataclass(frozen=True)
class Text:
    """What a run learns from, as far as the rules look at it; None where it is not known.

    Attributes:
        train_tokens: Tokens to train on.
        val_tokens: Tokens to validate on.
        tokenizer: The name of its tokenizer.
        vocab_size: The tokenizer's ids.
        bytes_per_token: Mean bytes of a token to train on.
    """

    train_tokens: int | None
    val_tokens: int | None
    tokenizer: str
    vocab_size: int
    bytes_per_token: float = 1.0

    @classmethod
    def of(cls, mixture: Mixture) -> Text:
        """Return what the rules look at in the data sets of a run; the shortest validation split of several counts."""
        shortest = min(len(dataset.val) for dataset in mixture.datasets)
        lengths = mixture.tokenizer.byte_lengths()
        means = [float(lengths[dataset.train[:SAMPLED_TOKENS]].mean()) for dataset in mixture.datasets]
        return cls(
            mixture.train_tokens,
            shortest,
            mixture.tokenizer.name,
            mixture.tokenizer.vocab_size,
            bytes_per_token=max(1.0, mixture.mean(means)),  # at least: the bytes of ids of unknown text are 0
        )


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        parameters: Its values, position embeddings left out.
        flops_per_token: Operations of a training step for one token.
    """

    parameters: int
    flops_per_token: float


def cost_of(config: GPTConfig) -> Cost:
    """Return the cost of a model."""
    parameters = count_parameters(config, positions=False)
    return Cost(parameters, training_flops_per_token(config, parameters))


def fill(settings: TrainSettings, **values: Any) -> TrainSettings:
    """Set those of these settings that are not set yet."""
    return settings.model_copy(update={k: v for k, v in values.items() if k not in settings.model_fields_set})


def with_block(settings: TrainSettings, text: Text, longest: int | None) -> TrainSettings:
    """Choose the context: the usual one, or as much of it as the text, or the model that is finetuned, has room for."""
    room = min(count or math.inf for count in (text.train_tokens, text.val_tokens)) / BLOCKS_OF_A_SPLIT
    block = min(LONGEST_BLOCK, longest or LONGEST_BLOCK)
    while block > room and block > SHORTEST_BLOCK:
        block //= 2
    return fill(settings, block_size=block)


def with_size(settings: TrainSettings, text: Text, flops: float) -> TrainSettings:
    """Choose the largest model that sees enough text for its parameters within these operations, of enough text."""
    most = MOST_PARAMETERS_PER_TOKEN * (text.train_tokens or math.inf)
    for layers, width in reversed(SIZES):
        if "n_head" in settings.model_fields_set:
            width = 2 * settings.n_head * max(1, round(width / (2 * settings.n_head)))
        sized = fill(settings, n_layer=layers, n_embd=width)
        sized = fill(sized, n_head=_heads(sized.n_embd))
        cost = cost_of(config_for(sized, text.tokenizer, text.vocab_size))
        seen_bytes = flops / cost.flops_per_token * text.bytes_per_token
        if cost.parameters <= min(most, seen_bytes / BYTES_PER_PARAMETER):
            break
    return sized


def is_of_wrong_size(config: GPTConfig, settings: TrainSettings, text: Text, flops: float) -> bool:
    """Whether a model is too large or too small for these operations, by so much that another one should be trained.

    Args:
        config: The model's configuration.
        settings: The run's, as they were before its size was chosen.
        text: What it learns from.
        flops: Operations that the run can do.
    """

    def cost(flops: float) -> float:
        sized = with_size(settings, text, flops)
        return cost_of(config_for(sized, text.tokenizer, text.vocab_size)).flops_per_token

    now = cost_of(config).flops_per_token
    return cost(TOO_SLOW * flops) < now or cost(flops / TOO_FAST) > now


def with_usual_size(settings: TrainSettings) -> TrainSettings:
    """Choose context, size and batch where the rules are to decide, but there is neither text nor time to look at."""
    if settings.defaults == "fixed":
        return settings
    text = Text(None, None, "bpe", USUAL_VOCABULARY, USUAL_BYTES_PER_TOKEN)
    return with_batch(with_size(with_block(settings, text, None), text, USUAL_FLOPS), FEWEST_TOKENS * FEWEST_ITERATIONS)


def with_batch(settings: TrainSettings, tokens: float, ranks: int = 1, *, of_short_text: bool = False) -> TrainSettings:
    """Choose a batch for a run over so many tokens, which so many ranks can share evenly."""
    fewest_iterations, fewest_tokens = FEWEST_ITERATIONS, FEWEST_TOKENS
    if of_short_text:
        fewest_iterations, fewest_tokens = FEWEST_OF_A_SHORT_TEXT, TOKENS_OF_A_SHORT_TEXT
    in_iteration = max(fewest_tokens, min(tokens / fewest_iterations, USUAL_TOKENS), tokens / USUAL_ITERATIONS)
    in_iteration = min(in_iteration, MOST_TOKENS)
    given = settings.gradient_accumulation_steps if "gradient_accumulation_steps" in settings.model_fields_set else 1
    unit = ranks // math.gcd(ranks, given)
    sequences = unit * max(1, 2 ** round(math.log2(in_iteration / (unit * settings.block_size))))
    settings = fill(settings, batch_size=sequences)
    return fill(settings, gradient_accumulation_steps=ranks // math.gcd(ranks, settings.batch_size))


def with_schedule(settings: TrainSettings, text: Text, cost: Cost, flops: float, ranks: int = 1) -> TrainSettings:
    """Choose batch, length, regularization and intervals for what can be done with these operations.

    The length is chosen where the settings have minutes; else it is given.
    """
    in_time, worth_reading = flops / cost.flops_per_token, MOST_PASSES * (text.train_tokens or math.inf)
    tokens = min(in_time, worth_reading)
    settings = with_batch(settings, tokens, ranks, of_short_text=2 * worth_reading <= in_time)
    if settings.minutes is not None:
        fitting = max(1, int(tokens / settings.tokens_per_iteration))
        length = min(fitting, enough_iterations(settings, text.train_tokens) if text.train_tokens else fitting)
        settings = with_own_teachers(settings, length, max(1, int(in_time / settings.tokens_per_iteration)))
    crowding = cost.parameters / text.train_tokens if text.train_tokens else 0.0
    return with_rhythm(with_regularization(settings, passes_over(settings, text) or 0.0, crowding))


def with_own_teachers(settings: TrainSettings, length: int, fitting: int) -> TrainSettings:
    """Choose the length, and how many models there are: teachers are trained first where there is time for them.

    Args:
        settings: With minutes, and a batch.
        length: Iterations of a model that is trained alone.
        fitting: Iterations that fit into the time, untaught.
    """
    given = settings.teacher_iters
    counts = range(MOST_MODELS if given or may_have_own_teachers(settings) else 1, 1, -1)
    count = next((count for count in counts if work_of_models(count) * (given or length) <= fitting), 1)
    if given:
        return settings.model_copy(update={"max_iters": count * given, "lr_decay_iters": given})
    chosen = {"max_iters": count * length, "lr_decay_iters": length, "teacher_iters": length if count > 1 else 0}
    return settings.model_copy(update=chosen)


def may_have_own_teachers(settings: TrainSettings) -> bool:
    """Whether the rules may let a run train teachers first: where that works, and where nobody has decided."""
    return (
        settings.init_from == "scratch"
        and settings.dtype != "float16"
        and settings.strategy != "fsdp"
        and not settings.patience
        and not settings.model_fields_set & {"teacher_iters", "teachers"}
    )


def work_of_models(count: int) -> float:
    """Return how many models would take as long untaught as these, of which all others teach the last one."""
    return count + FORWARD_SHARE * (count - 1)


def work_until(iteration: int, settings: TrainSettings) -> float:
    """Return how many untaught iterations take as long as those from the start of a run to this one."""
    teachers = settings.models - 1
    return iteration + FORWARD_SHARE * teachers * max(0, iteration - teachers * settings.teacher_iters)


def passes_over(settings: TrainSettings, text: Text) -> float | None:
    """Return how often a model of a run reads its text; None if the text's length is not known."""
    return settings.model_iters * settings.tokens_per_iteration / text.train_tokens if text.train_tokens else None


def enough_iterations(settings: TrainSettings, train_tokens: int) -> int:
    """Return the iterations after which more passes over a text of so many tokens bring nothing."""
    return max(1, MOST_PASSES * train_tokens // settings.tokens_per_iteration)


def with_learning_rates(settings: TrainSettings, *, finetuning: bool) -> TrainSettings:
    """Choose learning rates."""
    share = FINETUNING_SHARE if finetuning else 1.0
    return fill(settings, learning_rate=0.01 * share, muon_learning_rate=0.015 * share)


def with_regularization(settings: TrainSettings, passes: float, parameters_per_token: float) -> TrainSettings:
    """Choose dropout and weight decay from the passes over the text and the model's parameters per token of it."""
    strain = passes * parameters_per_token if passes > FEW_PASSES else 0.0
    dropout, weight_decay = next(values for most, *values in REGULARIZATION if strain <= most)
    return fill(settings, dropout=dropout, weight_decay=weight_decay)


def with_rhythm(settings: TrainSettings) -> TrainSettings:
    """Choose warm-up, and when to evaluate and to log."""
    iterations = settings.model_iters
    evaluated = min(EVALUATED_TOKENS, EVALUATED_SHARE * iterations * settings.tokens_per_iteration)
    return fill(
        settings,
        lr_decay_iters=max(1, iterations),
        warmup_iters=min(LONGEST_WARMUP, round(WARMUP_SHARE * iterations)),
        eval_interval=max(1, math.ceil(iterations / EVALUATIONS)),
        eval_iters=max(1, math.ceil(evaluated / (settings.batch_size * settings.block_size))),
        log_interval=max(1, iterations // LINES_OF_THE_LOG),
    )


def _heads(width: int) -> int:
    """Return how many heads of about the usual width divide a model's."""
    usual = width // (NARROW_HEADS if width <= NARROW_MODELS else WIDE_HEADS)
    return next(heads for heads in range(max(1, usual), 0, -1) if width % (2 * heads) == 0)
