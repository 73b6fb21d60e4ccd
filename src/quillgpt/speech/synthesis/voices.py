"""Voices: what every engine that speaks has, and the table of engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import VoiceFields
from quillgpt.speech.synthesis.espeak_voice import open_espeak
from quillgpt.speech.synthesis.piper_voice import SUFFIX, open_piper

Samples = NDArray[np.int16]


class Voice(Protocol):
    """Turns text into speech."""

    @property
    def name(self) -> str:
        """The engine and its voice, such as "espeak en-us"."""

    @property
    def language(self) -> str:
        """The code of its language, such as en-us."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""

    def say(self, text: str) -> Iterator[Samples]:
        """Yield a sentence as sound, one channel."""


ENGINES: dict[str, Callable[[VoiceFields], Voice]] = {"espeak": open_espeak, "piper": open_piper}


def open_voice(settings: VoiceFields) -> Voice:
    """Return the voice that the settings name; a voice file is one of piper, every other name one of espeak.

    Raises:
        UserError: The engine is not installed, or has no such voice.
    """
    engine = settings.engine
    if engine == "auto":
        engine = "piper" if (settings.voice or "").endswith(SUFFIX) else "espeak"
    return ENGINES[engine](settings)
