"""The transformer."""

from quillgpt.model.architecture import ARCHITECTURES, Architecture, padded_vocab_size
from quillgpt.model.assembly import Form, StoredTable, count_parameters, empty_model, read_into
from quillgpt.model.cache import KeyValueCache
from quillgpt.model.decoding import decode_step
from quillgpt.model.gpt import GPT, GPTConfig
from quillgpt.model.inference import check_quantize, for_inference, inference_form
from quillgpt.model.kernels import attention_path, attention_paths
from quillgpt.model.lora import adapters, add_adapters, merged_tensors

__all__ = [
    "ARCHITECTURES",
    "GPT",
    "Architecture",
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
    "decode_step",
    "empty_model",
    "for_inference",
    "inference_form",
    "merged_tensors",
    "padded_vocab_size",
    "read_into",
]
