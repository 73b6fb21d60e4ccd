"""What a recognizer has heard: segments of a recording, with time codes and confidence."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second that recognizers read."""


@dataclass(frozen=True)
class Segment:
    """A stretch of speech.

    Attributes:
        start: Seconds from the beginning of the recording.
        end: Seconds from the beginning of the recording.
        text: What was heard.
        confidence: The recognizer's estimate that the words are right, from 0 to 1.
        no_speech: The recognizer's probability that there is no speech here, from 0 to 1; None if it has none.
        compression: UTF-8 bytes of the text per byte of its zlib compression; high where the text repeats itself. If
            the recognizer tells that of the text around the segment too, the higher one.
    """

    start: float
    end: float
    text: str
    confidence: float
    no_speech: float | None = None
    compression: float = 1.0

    def shifted(self, seconds: float) -> Segment:
        """Return the segment so much later, as in the recording of which a stretch was heard."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


def compression(text: str) -> float:
    """Return the UTF-8 bytes of a text per byte of its zlib compression; above 2, a text repeats itself."""
    content = text.encode()
    return len(content) / len(zlib.compress(content))


class Recognizer(Protocol):
    """Turns speech into text."""

    @property
    def name(self) -> str:
        """The engine and its model, such as "whisper small"."""

    @property
    def language(self) -> str | None:
        """The language that is recognized, such as "en"; None as long as it has not been detected."""

    def begin(self) -> None:
        """Get ready for another recording."""

    def segments(self, samples: NDArray[np.float32]) -> Iterator[Segment]:
        """Yield what is said in a stretch of audio, as soon as it is known.

        Args:
            samples: One channel from -1 to 1, at `SAMPLE_RATE`. Times are counted from its beginning.
        """
