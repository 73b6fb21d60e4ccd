"""Kernels in C++ that the machine's own compiler translates when they are first needed."""

from quillgpt.native.compiled_folder import CACHE_VARIABLE, compiled_folder
from quillgpt.native.library import Dropout, Kernels, Strides, decoding_kernels, kernels, why_unavailable

__all__ = [
    "CACHE_VARIABLE",
    "Dropout",
    "Kernels",
    "Strides",
    "compiled_folder",
    "decoding_kernels",
    "kernels",
    "why_unavailable",
]
