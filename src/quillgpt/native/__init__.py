"""Kernels in C++ that the machine's own compiler translates when they are first needed."""

from quillgpt.native.library import Dropout, Kernels, Strides, kernels, why_unavailable

__all__ = ["Dropout", "Kernels", "Strides", "kernels", "why_unavailable"]
