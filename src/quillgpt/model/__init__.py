"""The transformer."""

from quillgpt.model.cache import KeyValueCache
from quillgpt.model.gpt import GPT
from quillgpt.model.shape import ModelShape, padded_vocab_size, usual_mlp_dim

__all__ = ["GPT", "KeyValueCache", "ModelShape", "padded_vocab_size", "usual_mlp_dim"]
