"""How the models of each architecture are stored: as their stock class in transformers stores them.

A stock class fixes the keys of config.json, the names of the tensors, and their layouts. What it cannot say stands in
config.json under a key of our own, which it ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quillgpt.config.schema import Arch
from quillgpt.model import GPTConfig

QUILL_KEY = "quill"
"""Our own key in config.json, and the `model_type` of models that no stock class computes."""

Json = dict[str, Any]


@dataclass(frozen=True)
class StockClass:
    """A class of transformers, and the form in which it stores a model.

    Attributes:
        name: Its name.
        write_config: From a configuration and a dropout to the keys of its config.json, and those under `QUILL_KEY`.
        read_config: From a config.json to a configuration and a dropout.
        required: Keys that must have a value that our model can compute: these values, and the key's default.
        prefix: Begins the names of all tensors but the head's.
        layer_prefix: Stands before the number of a block.
        modules: Its names of our modules; several where one matrix of ours holds several of its.
        transposed: Our modules whose matrices it stores as (in, out) instead of (out, in).
        has_head_dim: Heads may have any width; otherwise they share the model's.
        prefix_is_optional: Published models leave the prefix out.
    """

    name: str
    write_config: Callable[[GPTConfig, float], tuple[Json, Json]]
    read_config: Callable[[Mapping[str, Any]], tuple[GPTConfig, float]]
    required: dict[str, tuple[tuple[Any, ...], Any]]
    prefix: str
    layer_prefix: str
    modules: dict[str, str | tuple[str, ...]]
    transposed: frozenset[str] = frozenset()
    has_head_dim: bool = True
    prefix_is_optional: bool = False

    def stores_transposed(self, name: str) -> bool:
        """Whether it stores the tensor of that name as (in, out)."""
        return name.endswith(tuple(f".{self.modules[module]}.weight" for module in self.transposed))


def _write_gpt2(config: GPTConfig, dropout: float) -> tuple[Json, Json]:
    keys = {
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
    }
    return keys, {"bias": config.bias}


def _read_gpt2(config_json: Mapping[str, Any]) -> tuple[GPTConfig, float]:
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


def _write_qwen3(config: GPTConfig, dropout: float) -> tuple[Json, Json]:
    keys = {
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
    }
    return keys, {"dropout": dropout}


def _read_qwen3(config_json: Mapping[str, Any]) -> tuple[GPTConfig, float]:
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


STOCK_CLASSES: dict[Arch, StockClass] = {
    "gpt2": StockClass(
        name="GPT2LMHeadModel",
        write_config=_write_gpt2,
        read_config=_read_gpt2,
        required={
            "activation_function": (("gelu", "gelu_new", "gelu_pytorch_tanh"), "gelu_new"),
            "scale_attn_weights": ((True,), True),
            "scale_attn_by_inverse_layer_idx": ((False,), False),
            "add_cross_attention": ((False,), False),
        },
        prefix="transformer.",
        layer_prefix="h.",
        modules={
            "token_embedding": "wte",
            "position_embedding": "wpe",
            "attention_norm": "ln_1",
            "attention.qkv": "attn.c_attn",
            "attention.output": "attn.c_proj",
            "attention.log_tau": "attn.log_tau",
            "attention.gain": "attn.gain",
            "mlp_norm": "ln_2",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
            "final_norm": "ln_f",
        },
        transposed=frozenset({"attention.qkv", "attention.output", "mlp.up", "mlp.down"}),
        has_head_dim=False,
        prefix_is_optional=True,
    ),
    "qwen3": StockClass(
        name="Qwen3ForCausalLM",
        write_config=_write_qwen3,
        read_config=_read_qwen3,
        required={
            "hidden_act": (("silu",), "silu"),
            "attention_bias": ((False,), False),
            "use_sliding_window": ((False, None), False),
            "rope_scaling": ((None,), None),
            "rope_type": (("default",), "default"),
        },
        prefix="model.",
        layer_prefix="layers.",
        modules={
            "token_embedding": "embed_tokens",
            "attention_norm": "input_layernorm",
            "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.output": "self_attn.o_proj",
            "attention.log_tau": "self_attn.log_tau",
            "attention.gain": "self_attn.gain",
            "attention.query_norm": "self_attn.q_norm",
            "attention.key_norm": "self_attn.k_norm",
            "mlp_norm": "post_attention_layernorm",
            "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
            "mlp.down": "mlp.down_proj",
            "final_norm": "norm",
        },
    ),
}
