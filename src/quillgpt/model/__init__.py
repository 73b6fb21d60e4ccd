"""The transformer."""

from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT
from quillgpt.model.inference import check_quantize, for_inference
from quillgpt.model.shape import ModelShape, padded_vocab_size, usual_mlp_dim

__all__ = [
    "GPT",
    "KeyValueCache",
    "ModelShape",
    "check_quantize",
    "for_inference",
    "padded_vocab_size",
    "usual_mlp_dim",
]
