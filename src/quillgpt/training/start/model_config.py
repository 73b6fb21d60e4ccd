"""The configuration of a run's model: that of the model it starts from, or what the settings describe."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

from quillgpt.attention import KernelSpec
from quillgpt.config.runs import how_to_go_on
from quillgpt.config.schema import TrainSettings
from quillgpt.config.schema.attention import options_of
from quillgpt.console import say, warn
from quillgpt.errors import ConfigError
from quillgpt.model import ARCHITECTURES, GPT, GPTConfig, padded_vocab_size
from quillgpt.model.kernels import limit_range
from quillgpt.training.start.starting_point import StartingPoint

MODEL_SETTINGS = (
    *("arch", "n_layer", "n_head", "n_kv_head", "n_embd", "block_size", "vocab_size"),
    *("tied", "bias", "activation"),
)
KERNEL_SETTINGS = tuple(field.name for field in fields(KernelSpec))

MOST_EMPTY_ROWS = 1 << 16
"""Rows without a token that a model may have, so that small models can be given the 50,304 rows of GPT-2's."""


def choose_config(start: StartingPoint, tokenizer: str, vocab_size: int) -> tuple[TrainSettings, GPTConfig]:
    """Return the settings, with the configuration of the run's model in them, and that configuration.

    Args:
        start: What it starts from.
        tokenizer: The name of the data set's tokenizer.
        vocab_size: Its ids.

    Raises:
        ConfigError: The settings ask for another model than the one it starts from, or for too few rows.
    """
    if start.parent is None:
        return start.settings, config_for(start.settings, tokenizer, vocab_size)
    config = start.parent.config
    if not start.resumed:
        kernel = asked_kernel(start.settings, config.kernel)
        if kernel != config.kernel:
            say(f"{start.parent.folder} computes {config.kernel}; this run goes on with {kernel}")
        config = replace(config, kernel=kernel)
    return adopt_config(start.settings, config, resuming=start.resumed), config


def adopt_config(settings: TrainSettings, config: GPTConfig, *, resuming: bool) -> TrainSettings:
    """Take the configuration of the model that the run starts from; only a new run may have a smaller block_size.

    Raises:
        ConfigError: The settings ask for a longer context than the model's, or for another model than a resumed run's.
    """
    if "block_size" not in settings.model_fields_set:
        settings = settings.model_copy(update={"block_size": min(settings.block_size, config.block_size)})
    if settings.block_size > config.block_size:
        raise ConfigError(
            f"block_size = {settings.block_size} is longer than the {config.block_size} of the model in "
            f"{settings.init_from}; use --block_size={config.block_size} or less"
        )
    stored = {name: value for name, value in asdict(config).items() if name in MODEL_SETTINGS} | asdict(config.kernel)
    for name, value in stored.items():
        given = getattr(settings, name)
        if resuming and name in settings.model_fields_set and given not in (None, value):
            raise ConfigError(
                f"{name} = {given}, but the run in {settings.out_dir} has {name} = {value}; a resumed run keeps its "
                f"model. Use --{name}={value}, or resume with the run's own settings: "
                f"{how_to_go_on(settings.out_dir)}"
            )
    kept = [
        f"{name} = {value}, not {getattr(settings, name)}"
        for name, value in stored.items()
        if name in MODEL_SETTINGS and name not in ("block_size", "vocab_size") and name in settings.model_fields_set
        if getattr(settings, name) not in (None, value)
    ]
    if kept:
        warn(f"the model keeps its own settings: {', '.join(kept)}")
    return settings.model_copy(update=stored | {"block_size": settings.block_size})


def kernel_of(settings: TrainSettings) -> KernelSpec:
    """Return the attention kernel that the settings describe."""
    return KernelSpec(**{name: getattr(settings, name) for name in KERNEL_SETTINGS})


def range_limit(settings: TrainSettings, kernel: KernelSpec) -> float:
    """Return how far below 0 a kernel's arguments are not penalised: `range_limit`, or where its polynomial leaves exp.

    Raises:
        ConfigError: The kernel is not one of distance, or it has no such limit of its own and none is set.
    """
    if not kernel.of_distance:
        raise ConfigError(
            f"range_penalty = {settings.range_penalty:g} is for GK, GKn and GKpoly, and attn_type is "
            f"{kernel.attn_type}; leave it out"
        )
    limit = settings.range_limit or kernel.reach
    if limit is None:
        raise ConfigError(f"range_penalty needs --range_limit, since {kernel} has no end of its own")
    return limit


def limit_kernel_range(model: GPT, settings: TrainSettings) -> None:
    """Tell a model's kernels from where on their arguments are penalised, if they are."""
    if settings.range_penalty:
        limit_range(model, range_limit(settings, model.config.kernel))


def check_range(settings: TrainSettings, config: GPTConfig | None) -> None:
    """Check that the model has a kernel that `range_penalty` applies to.

    Args:
        settings: The run's.
        config: Configuration of the model that it starts from; None for one from scratch.

    Raises:
        ConfigError: It has not.
    """
    if settings.range_penalty:
        range_limit(settings, config.kernel if config else kernel_of(settings))


def asked_kernel(settings: TrainSettings, before: KernelSpec) -> KernelSpec:
    """Return the kernel of the model that a run starts from, changed where the settings name another.

    Options that both have stay unless the settings name others.
    """
    asked = {name: getattr(settings, name) for name in KERNEL_SETTINGS if name in settings.model_fields_set}
    attn_type = asked.pop("attn_type", before.attn_type)
    return before.swapped(attn_type, **options_of(attn_type, asked))


def config_for(settings: TrainSettings, tokenizer: str, tokens: int) -> GPTConfig:
    """Return the configuration of a model from scratch, for a tokenizer with this many tokens.

    Raises:
        ConfigError: vocab_size is smaller than the tokenizer's vocabulary, or far larger.
    """
    rows = settings.vocab_size or padded_vocab_size(tokens)
    if rows < tokens:
        raise ConfigError(
            f"vocab_size = {rows} is smaller than the {tokens} tokens of the tokenizer {tokenizer}; "
            "leave vocab_size out"
        )
    if rows - tokens > max(tokens, MOST_EMPTY_ROWS):
        raise ConfigError(
            f"vocab_size = {rows} would be {rows - tokens:,} rows without a token, which cost memory and time for "
            f"nothing: the tokenizer {tokenizer} has {tokens:,} tokens; leave vocab_size out"
        )
    return model_config(settings, rows)


def model_config(settings: TrainSettings, vocab_size: int) -> GPTConfig:
    """Return the configuration that the settings describe, with this many rows in its vocabulary."""
    architecture = ARCHITECTURES[settings.arch]
    return GPTConfig(
        arch=settings.arch,
        vocab_size=vocab_size,
        block_size=settings.block_size,
        n_layer=settings.n_layer,
        n_head=settings.n_head,
        n_kv_head=settings.n_kv_head or settings.n_head,
        n_embd=settings.n_embd,
        head_dim=settings.n_embd // settings.n_head,
        mlp_dim=architecture.mlp_dim(settings.n_embd),
        bias=settings.bias,
        activation=settings.activation,
        norm_eps=architecture.norm_eps,
        tied=settings.tied,
        kernel=kernel_of(settings),
    )
