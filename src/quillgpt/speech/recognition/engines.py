"""The table of recognizers, and which of them is the default."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from quillgpt.config.schema import RecognizerSettings
from quillgpt.errors import UserError
from quillgpt.speech.recognition.pocketsphinx_engine import PocketsphinxRecognizer, is_english
from quillgpt.speech.recognition.transcript import Recognizer
from quillgpt.speech.recognition.whisper_engine import WhisperRecognizer
from quillgpt.speech.recognition.whisper_models import ModelUnavailableError

ENGINES: dict[str, Callable[[RecognizerSettings], Recognizer]] = {
    "whisper": WhisperRecognizer,
    "pocketsphinx": PocketsphinxRecognizer,
}


def recognizer(settings: RecognizerSettings) -> Recognizer:
    """Return the recognizer that the settings ask for.

    If they leave the choice open, that is whisper; if its package or its model cannot be had, pocketsphinx, with a line
    that says why. A model or another language than English can only mean whisper.

    Raises:
        UserError: A package or a model is missing, or the engine cannot do what is asked for.
    """
    if settings.engine != "auto":
        return ENGINES[settings.engine](settings)
    if settings.model is not None or not is_english(settings.language):
        return WhisperRecognizer(settings)
    if not _is_installed("faster_whisper"):
        if not _is_installed("pocketsphinx"):
            raise UserError(
                "transcribing needs a recognizer, and none is installed: pip install 'quillgpt[whisper]', which is "
                "accurate, or 'quillgpt[voice]', which is rough"
            )
        return PocketsphinxRecognizer(
            settings, because="faster-whisper is not installed: pip install 'quillgpt[whisper]'"
        )
    try:
        return WhisperRecognizer(settings)
    except ModelUnavailableError as error:
        if not _is_installed("pocketsphinx"):
            raise
        return PocketsphinxRecognizer(settings, because=str(error))


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
