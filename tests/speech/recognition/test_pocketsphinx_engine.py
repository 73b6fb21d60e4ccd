"""pocketsphinx hears what espeak-ng says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings
from quillgpt.errors import ConfigError
from quillgpt.speech.recognition.engines import recognizer
from quillgpt.speech.recognition.transcript import SAMPLE_RATE, Recognizer
from speech.spoken import TEXT, overlap, speech_for_recognizers

LEAST_OVERLAP = 0.6
SILENCE = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)


@pytest.fixture(scope="module")
def engine() -> Recognizer:
    return recognizer(RecognizerSettings(engine="pocketsphinx"))


@pytest.fixture(scope="module")
def spoken() -> NDArray[np.float32]:
    return speech_for_recognizers(TEXT)


def test_hears_the_words_and_when_they_are_said(engine: Recognizer, spoken: NDArray[np.float32]) -> None:
    segments = list(engine.segments(np.concatenate([SILENCE, spoken, SILENCE])))
    assert overlap(TEXT, " ".join(segment.text for segment in segments)) > LEAST_OVERLAP
    assert 1.8 < segments[0].start < 2.5
    assert abs(segments[-1].end - 2 - len(spoken) / SAMPLE_RATE) < 0.6
    assert all(0 < segment.confidence <= 1 for segment in segments)


def test_hears_the_same_twice(engine: Recognizer, spoken: NDArray[np.float32]) -> None:
    part = spoken[: 3 * SAMPLE_RATE]
    assert list(engine.segments(part)) == list(engine.segments(part))


@pytest.mark.parametrize("length", [0, 1, 100, 479, 480, 10 * SAMPLE_RATE])
def test_hears_nothing_in_digital_silence(engine: Recognizer, length: int) -> None:
    assert list(engine.segments(np.zeros(length, dtype=np.float32))) == []


def test_hears_all_of_it_without_voice_activity_detection(spoken: NDArray[np.float32]) -> None:
    engine = recognizer(RecognizerSettings(engine="pocketsphinx", vad=False))
    heard = " ".join(segment.text for segment in engine.segments(spoken[: 4 * SAMPLE_RATE]))
    assert overlap("the old man walked down the road to the house. he had a big dog", heard) > LEAST_OVERLAP
    assert list(engine.segments(np.zeros(100, dtype=np.float32))) == []


@pytest.mark.parametrize(("setting", "value"), [("language", "de"), ("model", "small")])
def test_refuses_what_only_whisper_has(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{setting}={value}: pocketsphinx .*--engine=whisper"):
        recognizer(RecognizerSettings.model_validate({"engine": "pocketsphinx", setting: value}))
