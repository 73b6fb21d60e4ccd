"""The transformer."""

from quillgpt.model.architecture import padded_vocab_size, usual_mlp_dim
from quillgpt.model.assembly import Form, StoredTable, count_parameters, empty_model, read_into
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT, Activation, GPTConfig
from quillgpt.model.inference import check_quantize, for_inference, inference_form
from quillgpt.model.kernels import attention_path, attention_paths
from quillgpt.model.lora import adapters, add_adapters, merged_state

__all__ = [
    "GPT",
    "Activation",
    "Form",
    "GPTConfig",
    "KeyValueCache",
    "StoredTable",
    "adapters",
    "add_adapters",
    "attention_path",
    "attention_paths",
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
