"""Attention kernels, each with fast paths and a slow reference."""

from quillgpt.attention.dropout import dropout
from quillgpt.attention.excess import range_excess
from quillgpt.attention.kernels import Attend, attention_path, attention_paths
from quillgpt.attention.spec import SOFTMAX, KernelSpec

__all__ = ["SOFTMAX", "Attend", "KernelSpec", "attention_path", "attention_paths", "dropout", "range_excess"]
