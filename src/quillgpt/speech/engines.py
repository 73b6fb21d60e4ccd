"""The table of recognizers, and which of them is the default."""

from __future__ import annotations

from collections.abc import Callable

from quillgpt.config.schema import RecognizerSettings
from quillgpt.speech.pocketsphinx_engine import PocketsphinxRecognizer
from quillgpt.speech.transcript import Recognizer

ENGINES: dict[str, Callable[[RecognizerSettings], Recognizer]] = {
    "pocketsphinx": PocketsphinxRecognizer,
}


def recognizer(settings: RecognizerSettings) -> Recognizer:
    """Return the recognizer that the settings ask for.

    Raises:
        UserError: A package or a model is missing, or the engine cannot do what is asked for.
    """
    return ENGINES["pocketsphinx" if settings.engine == "auto" else settings.engine](settings)
