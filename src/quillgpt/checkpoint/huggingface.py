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
from quillgpt.config.schema.attention import Attention
from quillgpt.errors import CheckpointError, cut, shorten
from quillgpt.model import ModelShape

QUILL_KEY = "quill"


def to_config(shape: ModelShape, *, dropout: float, end_of_text: int | None) -> dict[str, Any]:
    """Write a shape as the config.json of its stock class.

    Args:
        shape: The shape of the model.
        dropout: Its dropout in training, for those who train on.
        end_of_text: Id of the end-of-text token, where the tokenizer has one.
    """
    config = _stock_config(shape, dropout=dropout, end_of_text=end_of_text)
    if shape.kernel == SOFTMAX:
        return config
    own = {"architectures": ["QuillForCausalLM"], "model_type": QUILL_KEY, "arch": shape.arch}
    return config | own | asdict(shape.kernel)


def _stock_config(shape: ModelShape, *, dropout: float, end_of_text: int | None) -> dict[str, Any]:
    common: dict[str, Any] = {
        "vocab_size": shape.vocab_size,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": shape.tied,
        "dtype": "float32",
    }
    if shape.arch == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_positions": shape.block_size,
            "n_embd": shape.n_embd,
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
            "n_inner": shape.mlp_dim,
            "activation_function": shape.activation,
            "layer_norm_epsilon": shape.norm_eps,
            "resid_pdrop": dropout,
            "embd_pdrop": dropout,
            "attn_pdrop": dropout,
            **common,
            QUILL_KEY: {"bias": shape.bias},
        }
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "max_position_embeddings": shape.block_size,
        "hidden_size": shape.n_embd,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.mlp_dim,
        "hidden_act": "silu",
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "attention_bias": False,
        "attention_dropout": dropout,
        "use_sliding_window": False,
        **common,
        QUILL_KEY: {"dropout": dropout},
    }


def from_config(config: Mapping[str, Any], where: str) -> tuple[ModelShape, float]:
    """Read a shape and a dropout from a config.json.

    Args:
        config: The parsed file.
        where: The file's path, for messages.

    Raises:
        CheckpointError: The model is of another kind than our two architectures hold exactly.
    """
    readers: dict[str, Callable[[Mapping[str, Any]], tuple[ModelShape, float]]] = {
        "gpt2": _gpt2_shape,
        "qwen3": _qwen3_shape,
    }
    kind = config.get("model_type")
    if kind == QUILL_KEY:
        kind = config.get("arch")
    if not isinstance(kind, str) or kind not in readers:
        raise CheckpointError(
            f"{where}: model_type is {shorten(kind)}; supported are gpt2 and qwen3, the two architectures that Quill "
            "holds"
        )
    rope = config.get("rope_parameters")  # where transformers 5 keeps the rotary settings
    config = {**config, **(rope if isinstance(rope, dict) else {})}
    for key, (expected, default) in REQUIRED[kind].items():
        if (found := config.get(key, default)) not in expected:
            raise CheckpointError(
                f"{where}: {key} is {shorten(found)}; supported is {' or '.join(map(repr, expected))}"
            )
    try:
        shape, dropout = readers[kind](config)
    except KeyError as missing:
        raise CheckpointError(f"{where}: the key {missing} is missing") from None
    except (AttributeError, TypeError, ValueError, ArithmeticError):
        raise CheckpointError(f"{where}: a value is not of the kind that its key needs; the file is damaged") from None
    shape = replace(shape, kernel=_kernel(config, where))
    _check_possible(shape, dropout, where)
    return shape, dropout


def _kernel(config: Mapping[str, Any], where: str) -> KernelSpec:
    if config.get("model_type") != QUILL_KEY:
        return SOFTMAX
    try:
        checked = Attention.model_validate({field.name: config[field.name] for field in fields(KernelSpec)})
    except KeyError as missing:
        raise CheckpointError(f"{where}: the key {missing} is missing") from None
    except ValidationError as error:
        found = error.errors()[0]
        raise CheckpointError(
            f"{where}: {cut(' '.join(map(str, (*found['loc'], found['msg'].removeprefix('Value error, ')))))}"
        ) from None
    return KernelSpec(**checked.model_dump(exclude={"attn_path"}))


def _check_possible(shape: ModelShape, dropout: float, where: str) -> None:
    for name, most in LARGEST.items():
        size = getattr(shape, name)
        if type(size) is not int or not 1 <= size <= most:
            raise CheckpointError(f"{where}: {name} is {shorten(size)}; expected a whole number from 1 to {most:,}")
    for name in ("bias", "tied"):
        if type(getattr(shape, name)) is not bool:
            raise CheckpointError(f"{where}: {name} is {shorten(getattr(shape, name))}; expected true or false")
    for name, value in (("norm_eps", shape.norm_eps), ("rope_theta", shape.rope_theta)):
        if not isinstance(value, int | float) or not 0 < value < 1e18:
            raise CheckpointError(f"{where}: {name} is {shorten(value)}; expected a number above 0")
    if not 0 <= dropout < 1:
        raise CheckpointError(f"{where}: the dropout is {shorten(dropout)}; expected a number from 0 to below 1")
    if shape.n_head % shape.n_kv_head:
        raise CheckpointError(f"{where}: {shape.n_head} heads cannot share {shape.n_kv_head} key heads evenly")
    if shape.arch == "gpt2" and shape.n_embd % shape.n_head:
        raise CheckpointError(f"{where}: a width of {shape.n_embd} cannot be divided into its {shape.n_head} heads")
    if shape.arch == "qwen3" and shape.head_dim % 2:
        raise CheckpointError(f"{where}: head_dim is {shape.head_dim}; expected an even number, for rotary positions")


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


def _gpt2_shape(config: Mapping[str, Any]) -> tuple[ModelShape, float]:
    width, heads = config["n_embd"], config["n_head"]
    shape = ModelShape(
        arch="gpt2",
        vocab_size=config["vocab_size"],
        block_size=config["n_positions"],
        n_layer=config["n_layer"],
        n_head=heads,
        n_kv_head=heads,
        n_embd=width,
        head_dim=width // heads,
        mlp_dim=config.get("n_inner") or 4 * width,
        bias=config.get(QUILL_KEY, {}).get("bias", True),
        activation="gelu" if config.get("activation_function") == "gelu" else "gelu_new",
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", True),
    )
    return shape, float(config.get("resid_pdrop", 0.1))


def _qwen3_shape(config: Mapping[str, Any]) -> tuple[ModelShape, float]:
    heads = config["num_attention_heads"]
    shape = ModelShape(
        arch="qwen3",
        vocab_size=config["vocab_size"],
        block_size=config["max_position_embeddings"],
        n_layer=config["num_hidden_layers"],
        n_head=heads,
        n_kv_head=config.get("num_key_value_heads") or heads,
        n_embd=config["hidden_size"],
        head_dim=config.get("head_dim", 128),
        mlp_dim=config["intermediate_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(config.get("rope_theta", 10_000.0)),
        tied=config.get("tie_word_embeddings", False),
    )
    return shape, float(config.get(QUILL_KEY, {}).get("dropout", 0.0))
