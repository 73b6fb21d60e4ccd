"""Compressors as a floor: what the held-out part adds to the size of the compressed text."""

from __future__ import annotations

import lzma
import time
from collections.abc import Callable, Iterator

from quillgpt.bench.quality.candidates import Run
from quillgpt.bench.quality.held_out import SplitText
from quillgpt.bench.quality.record import PPMD, XZ
from quillgpt.bench.quality.scoring import Price
from quillgpt.extras import import_extra

CHUNK_BYTES = 1 << 20
PPMD_ORDER, PPMD_MEMORY = 16, 192 << 20
"""The longest context in bytes, and room for the contexts of all of a text of 50 MB."""

Size = Callable[[bytes], int]
"""Returns the bytes of a compressed text."""


def size_by_xz(data: bytes) -> int:
    """Return the bytes that `xz -9e` makes of a text."""
    compressor = lzma.LZMACompressor(preset=9 | lzma.PRESET_EXTREME)
    size = sum(len(compressor.compress(chunk)) for chunk in _chunks(data))
    return size + len(compressor.flush())


def size_by_ppmd(data: bytes) -> int:
    """Return the bytes that PPMd makes of a text, in variant H, that of 7-Zip.

    Raises:
        UserError: pyppmd is not installed.
    """
    pyppmd = import_extra("pyppmd", extra="bench", purpose="the floor of PPMd")
    encoder = pyppmd.Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    size = sum(len(encoder.encode(chunk)) for chunk in _chunks(data))
    return size + len(encoder.flush())


COMPRESSORS: dict[str, Size] = {XZ: size_by_xz, PPMD: size_by_ppmd}


def run_compressor(split: SplitText, size: Size) -> Run:
    """Compress a text without its held-out part and with it; the difference is the price.

    Unlike a model, a compressor learns from the held-out part while it reads it.

    Args:
        split: The text.
        size: Returns the size of a compressed text.

    Raises:
        UserError: The compressor is not installed.
    """
    started = time.perf_counter()
    seen = split.train.encode("utf-8")
    bits = 8.0 * (size(seen + split.held.encode("utf-8")) - size(seen))
    return Run(Price(bits), time.perf_counter() - started, {})


def _chunks(data: bytes) -> Iterator[bytes]:
    """Yield a text in parts, between which a signal can stop the work."""
    return (data[first : first + CHUNK_BYTES] for first in range(0, len(data), CHUNK_BYTES))
