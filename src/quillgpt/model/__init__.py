"""The transformer."""

from quillgpt.model.assembly import Form, StoredTable, count_parameters, empty_model, read_into
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT
from quillgpt.model.inference import check_quantize, for_inference, inference_form
from quillgpt.model.lora import adapters, add_adapters, merged_state
from quillgpt.model.shape import Activation, GPTConfig, padded_vocab_size, usual_mlp_dim

__all__ = [
    "GPT",
    "Activation",
    "Form",
    "GPTConfig",
    "KeyValueCache",
    "StoredTable",
    "adapters",
    "add_adapters",
    "check_quantize",
    "count_parameters",
    "empty_model",
    "for_inference",
    "inference_form",
    "merged_state",
    "padded_vocab_size",
    "read_into",
    "usual_mlp_dim",
]
