"""How our models are written as Hugging Face folders, and which of those we can hold.

A checkpoint is a stock `GPT2LMHeadModel` or `Qwen3ForCausalLM` folder. What those classes cannot say stands in
config.json under our own key, `quill`, which they ignore. A model whose attention is not theirs has a `model_type` that
they refuse, `quill`: names, layouts and keys stay those of its architecture, the kernel's settings stand beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from pydantic import ValidationError

from quillgpt.attention import SOFTMAX, KernelSpec
from quillgpt.config.schema.attention import AttentionFields
from quillgpt.errors import CheckpointError, cut, shorten
from quillgpt.model import GPTConfig

QUILL_KEY = "quill"


def to_config_json(config: GPTConfig, *, dropout: float, end_of_text: int | None) -> dict[str, Any]:
    """Write a configuration as the config.json of its stock class.

    Args:
        config: Configuration of the model.
        dropout: Its dropout in training, for those who train on.
        end_of_text: Id of the end-of-text token, where the tokenizer has one.
    """
    config_json = _stock_config(config, dropout=dropout, end_of_text=end_of_text)
    if config.kernel == SOFTMAX:
        return config_json
    own = {"architectures": ["QuillForCausalLM"], "model_type": QUILL_KEY, "arch": config.arch}
    return config_json | own | asdict(config.kernel)


def _stock_config(config: GPTConfig, *, dropout: float, end_of_text: int | None) -> dict[str, Any]:
    common: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
    }
    if config.arch == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": config.block_size,
            "n_embd": config.n_embd,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_inner": config.mlp_dim,
            "activation_function": config.activation,
            "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": dropout,
            "embd_pdrop": dropout,
            "attn_pdrop": dropout,
            **common,
            QUILL_KEY: {"bias": config.bias},
        }
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "max_position_embeddings": config.block_size,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": dropout,
        "use_sliding_window": False,
        **common,
        QUILL_KEY: {"dropout": dropout},
    }


def from_config_json(config_json: Mapping[str, Any], where: str) -> tuple[GPTConfig, float]:
    """Read a configuration and a dropout from a config.json.

    Args:
        config_json: The parsed file.
        where: The file's path, for messages.

    Raises:
        CheckpointError: The model is of another kind than our two architectures hold exactly.
    """
    readers: dict[str, Callable[[Mapping[str, Any]], tuple[GPTConfig, float]]] = {
        "gpt2": _gpt2_config,
        "qwen3": _qwen3_config,
    }
    kind = config_json.get("model_type")
    if kind == QUILL_KEY:
        kind = config_json.get("arch")
    if not isinstance(kind, str) or kind not in readers:
        raise CheckpointError(
            f"{where}: model_type is {shorten(kind)}; supported are gpt2 and qwen3, the two architectures that Quill "
            "holds"
        )
    rope = config_json.get("rope_parameters")  # where transformers 5 keeps the rotary settings
    config_json = {**config_json, **(rope if isinstance(rope, dict) else {})}
    for key, (expected, default) in REQUIRED[kind].items():
        if (found := config_json.get(key, default)) not in expected:
            raise CheckpointError(
                f"{where}: {key} is {shorten(found)}; supported is {' or '.join(map(repr, expected))}"
            )
    try:
        config, dropout = readers[kind](config_json)
    except KeyError as missing:
        raise CheckpointError(f"{where}: the key {missing} is missing") from None
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        raise CheckpointError(f"{where}: a value is not of the kind that its key needs; the file is damaged") from None
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
        found = error.errors()[0]
        raise CheckpointError(
            f"{where}: {cut(' '.join(map(str, (*found['loc'], found['msg'].removeprefix('Value error, ')))))}"
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
    if config.arch == "gpt2" and config.n_embd % config.n_head:
        raise CheckpointError(f"{where}: a width of {config.n_embd} cannot be divided into its {config.n_head} heads")
    if config.arch == "qwen3" and config.head_dim % 2:
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
"""Far above any model that there is: a larger size comes from a damaged file, and would fill the memory."""


# What a stock config can say and our architectures cannot hold: key -> (values that we hold, the stock default).
REQUIRED: dict[str, dict[str, tuple[tuple[Any, ...], Any]]] = {
    "gpt2": {
        "activation_function": (("gelu", "gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
        "scale_attn_weights": ((True,), True),
        "scale_attn_by_inverse_layer_idx": ((False,), False),
        "add_cross_attention": ((False,), False),
    },
    "qwen3": {
        "hidden_act": (("silu",), "silu"),
        "attention_bias": ((False,), False),
        "use_sliding_window": ((False, None), False),
        "rope_scaling": ((None,), None),
        "rope_type": (("default",), "default"),
    },
}


def _gpt2_config(config_json: Mapping[str, Any]) -> tuple[GPTConfig, float]:
    width, heads = config_json["n_embd"], config_json["n_head"]
    config = GPTConfig(
        arch="gpt2",
        vocab_size=config_json["vocab_size"],
        block_size=config_json["n_positions"],
        n_layer=config_json["n_layer"],
        n_head=heads,
        n_kv_head=heads,
        n_embd=width,
        head_dim=width // heads,
        mlp_dim=config_json.get("n_inner") or 4 * width,
        bias=config_json.get(QUILL_KEY, {}).get("bias", True),
        activation="gelu" if config_json.get("activation_function") == "gelu" else "gelu_new",
        norm_eps=config_json.get("layer_norm_epsilon", 1e-5),
        tied=config_json.get("tie_word_embeddings", True),
    )
    return config, float(config_json.get("resid_pdrop", 0.1))


def _qwen3_config(config_json: Mapping[str, Any]) -> tuple[GPTConfig, float]:
    heads = config_json["num_attention_heads"]
    config = GPTConfig(
        arch="qwen3",
        vocab_size=config_json["vocab_size"],
        block_size=config_json["max_position_embeddings"],
        n_layer=config_json["num_hidden_layers"],
        n_head=heads,
        n_kv_head=config_json.get("num_key_value_heads") or heads,
        n_embd=config_json["hidden_size"],
        head_dim=config_json.get("head_dim", 128),
        mlp_dim=config_json["intermediate_size"],
        norm_eps=config_json.get("rms_norm_eps", 1e-6),
        rope_theta=float(config_json.get("rope_theta", 10_000.0)),
        tied=config_json.get("tie_word_embeddings", False),
    )
    return config, float(config_json.get(QUILL_KEY, {}).get("dropout", 0.0))
