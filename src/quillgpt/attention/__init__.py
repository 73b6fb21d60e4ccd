"""Attention kernels, each with fast paths and a slow reference."""

from quillgpt.attention.dropout import dropout
from quillgpt.attention.kernels import KERNELS, Attend, Kernel

__all__ = ["KERNELS", "Attend", "Kernel", "dropout"]
