"""A recognizer that is quick, for tests of what happens around recognizing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings
from quillgpt.speech.recognition.transcript import SAMPLE_RATE, Segment


class Loudness:
    """Says of each second in which there is sound how loud it is.

    Args:
        settings: The settings.
    """

    name = "loudness 1"
    language = "en"
    heard = 0
    meanwhile: Callable[[], object] | None = None

    def __init__(self, settings: RecognizerSettings) -> None:
        pass

    def begin(self) -> None:
        pass

    def segments(self, samples: NDArray[np.float32]) -> Iterator[Segment]:
        type(self).heard += 1
        if self.meanwhile is not None:
            type(self).meanwhile()  # type: ignore[misc]
        for second in range(len(samples) // SAMPLE_RATE):
            loudness = float(np.abs(samples[second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE]).max())
            if loudness > 0.01:
                yield Segment(second, second + 1, f"about {loudness:.1f}", confidence=0.2 if loudness < 0.25 else 0.9)
