"""config.json: how a model's configuration is written, and which configurations of others can be read.

A checkpoint is a folder of the architecture's stock class (checkpoint/stock_classes.py). A model whose attention is
another than softmax has a `model_type` that transformers refuses, `quill`; names, layouts and keys stay those of its
architecture, with the kernel's settings beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic import ValidationError

from quillgpt.attention import SOFTMAX, KernelSpec
from quillgpt.checkpoint.stock_classes import QUILL_KEY, STOCK_CLASSES
from quillgpt.config.schema.attention import AttentionFields
from quillgpt.errors import CheckpointError, cut, shorten
from quillgpt.model import GPTConfig


def to_config_json(config: GPTConfig, *, dropout: float, end_of_text: int | None) -> dict[str, Any]:
    """Write a configuration as the config.json of its stock class.

    Args:
        config: Configuration of the model.
        dropout: Its dropout in training, for further training.
        end_of_text: Id of the end-of-text token, if the tokenizer has one.
    """
    stock = STOCK_CLASSES[config.arch]
    keys, own_keys = stock.write_config(config, dropout)
    config_json = {
        "architectures": [stock.name],
        "model_type": config.arch,
        **keys,
        "vocab_size": config.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
        QUILL_KEY: own_keys,
    }
    if config.kernel == SOFTMAX:
        return config_json
    own = {"architectures": ["QuillForCausalLM"], "model_type": QUILL_KEY, "arch": config.arch}
    return config_json | own | asdict(config.kernel)


def from_config_json(config_json: Mapping[str, Any], where: str) -> tuple[GPTConfig, float]:
    """Read a configuration and a dropout from a config.json.

    Args:
        config_json: The parsed file.
        where: The file's path, for messages.

    Raises:
        CheckpointError: The model is none that our architectures compute exactly.
    """
    kind = config_json.get("model_type")
    if kind == QUILL_KEY:
        kind = config_json.get("arch")
    if not isinstance(kind, str) or kind not in STOCK_CLASSES:
        raise CheckpointError(f"{where}: model_type is {shorten(kind)}; supported are {' and '.join(STOCK_CLASSES)}")
    stock = STOCK_CLASSES[kind]
    rope = config_json.get("rope_parameters")  # where transformers 5 keeps the rotary settings
    config_json = {**config_json, **(rope if isinstance(rope, dict) else {})}
    for key, (expected, default) in stock.required.items():
        value = config_json.get(key, default)
        if value not in expected:
            raise CheckpointError(
                f"{where}: {key} is {shorten(value)}; supported is {' or '.join(map(repr, expected))}"
            )
    try:
        config, dropout = stock.read_config(config_json)
    except KeyError as missing:
        raise CheckpointError(f"{where}: the key {missing} is missing") from None
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        raise CheckpointError(f"{where}: a value has the wrong type for its key; the file is damaged") from None
    config = replace(config, kernel=_kernel(config_json, where))
    _check_possible(config, dropout, where)
    return config, dropout


def _kernel(config_json: Mapping[str, Any], where: str) -> KernelSpec:
    if config_json.get("model_type") != QUILL_KEY:
        return SOFTMAX
    try:
        checked = AttentionFields.model_validate({field.name: config_json[field.name] for field in fields(KernelSpec)})
    except KeyError as missing:
        raise CheckpointError(f"{where}: the key {missing} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{where}: {cut(' '.join(map(str, (*first['loc'], first['msg'].removeprefix('Value error, ')))))}"
        ) from None
    return KernelSpec(**checked.model_dump(exclude={"attn_path"}))


def _check_possible(config: GPTConfig, dropout: float, where: str) -> None:
    for name, most in LARGEST.items():
        size = getattr(config, name)
        if type(size) is not int or not 1 <= size <= most:
            raise CheckpointError(f"{where}: {name} is {shorten(size)}; expected a whole number from 1 to {most:,}")
    for name in ("bias", "tied"):
        if type(getattr(config, name)) is not bool:
            raise CheckpointError(f"{where}: {name} is {shorten(getattr(config, name))}; expected true or false")
    for name, value in (("norm_eps", config.norm_eps), ("rope_theta", config.rope_theta)):
        if not isinstance(value, int | float) or not 0 < value < 1e18:
            raise CheckpointError(f"{where}: {name} is {shorten(value)}; expected a number above 0")
    if not 0 <= dropout < 1:
        raise CheckpointError(f"{where}: the dropout is {shorten(dropout)}; expected a number from 0 to below 1")
    if config.n_head % config.n_kv_head:
        raise CheckpointError(f"{where}: {config.n_head} heads cannot share {config.n_kv_head} key heads evenly")
    if not STOCK_CLASSES[config.arch].has_head_dim and config.n_embd % config.n_head:
        raise CheckpointError(f"{where}: a width of {config.n_embd} cannot be divided into its {config.n_head} heads")
    if config.architecture.positions == "rotary" and config.head_dim % 2:
        raise CheckpointError(f"{where}: head_dim is {config.head_dim}; expected an even number, for rotary positions")


LARGEST = {
    "vocab_size": 1 << 24,
    "block_size": 1 << 20,
    "n_layer": 1000,
    "n_head": 1 << 12,
    "n_kv_head": 1 << 12,
    "n_embd": 1 << 18,
    "head_dim": 1 << 10,
    "mlp_dim": 1 << 20,
}
"""Far above any existing model: a larger size comes from a damaged file, and would fill the memory."""
