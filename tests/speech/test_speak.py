"""Text becomes speech that can be measured, and heard again."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings, VoiceFields
from quillgpt.errors import ConfigError
from quillgpt.speech.engines import recognizer
from quillgpt.speech.espeak_voice import open_espeak
from quillgpt.speech.speak import speaking
from quillgpt.speech.transcript import SAMPLE_RATE
from speech.spoken import TEXT, overlap

LEAST_OVERLAP = 0.6
TWO = "The first sentence is here. The second one follows it."


def spoken(path: Path, text: str, **settings: Any) -> NDArray[np.int16]:
    """Speak a text into a wav, check its format, and return its samples."""
    with speaking(VoiceFields(**settings), str(path), overwrite=True) as speaker:
        speaker.push(text)
    return samples_of(path)


def samples_of(path: Path) -> NDArray[np.int16]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert len(samples) == file.getnframes()
    assert path.stat().st_size == 44 + 2 * len(samples)
    return samples


def at_recognizers_rate(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    places = np.arange(0, len(samples), 22050 / SAMPLE_RATE)
    return np.interp(places, np.arange(len(samples)), samples / 32768).astype(np.float32)


def test_speech_has_the_length_and_the_loudness_of_speech(tmp_path: Path) -> None:
    samples = spoken(tmp_path / "a.wav", TEXT)
    words_per_minute = len(TEXT.split()) / (len(samples) / 22050 / 60)
    assert 120 < words_per_minute < 230
    loudness = np.sqrt(np.mean(np.square(samples / 32768)))
    assert 0.02 < loudness < 0.5
    assert np.abs(samples.astype(int)).max() < 32767  # nothing is clipped


def test_more_text_takes_longer_and_a_higher_rate_is_faster(tmp_path: Path) -> None:
    once = len(spoken(tmp_path / "a.wav", TEXT))
    assert 1.8 < len(spoken(tmp_path / "a.wav", f"{TEXT} {TEXT}")) / once < 2.4
    seconds = [len(spoken(tmp_path / "a.wav", TEXT, rate=rate)) for rate in (80, 175, 300, 450)]
    assert seconds == sorted(seconds, reverse=True)
    assert 1.7 < seconds[0] / seconds[1] < 2.8
    assert seconds[1] == pytest.approx(once, rel=0.01)


def test_a_recognizer_hears_the_words_again(tmp_path: Path) -> None:
    samples = spoken(tmp_path / "a.wav", TEXT, voice="en-us+f5", rate=150)
    heard = recognizer(RecognizerSettings(engine="pocketsphinx")).segments(at_recognizers_rate(samples))
    assert overlap(TEXT, " ".join(segment.text for segment in heard)) > LEAST_OVERLAP


def pitch(samples: NDArray[np.int16]) -> float:
    """Return the median frequency at which loud parts of a voice repeat, in Hertz."""
    frames = samples[: len(samples) // 1024 * 1024].reshape(-1, 1024).astype(float)
    loud = frames[np.abs(frames).mean(axis=1) > 1500]
    spectra = np.abs(np.fft.rfft(loud, 2048)) ** 2
    repeats = np.fft.irfft(spectra)[:, : 22050 // 60]
    return float(np.median(22050 / (22050 // 400 + repeats[:, 22050 // 400 :].argmax(axis=1))))


def test_a_variant_has_another_pitch(tmp_path: Path) -> None:
    low, high = (pitch(spoken(tmp_path / "a.wav", TEXT, voice=voice)) for voice in ("en-us+m3", "en-us+f3"))
    assert high > 1.3 * low


def test_a_language_reads_numbers_in_its_own_words(tmp_path: Path) -> None:
    number = "777 777 777"
    chosen = [{"voice": "de"}, {"voice": "German"}, {"language": "DE"}, {"voice": "+f3", "language": "de"}, {}]
    german, *same, english = (len(spoken(tmp_path / "a.wav", number, **settings)) for settings in chosen)
    assert same == pytest.approx([german] * 3, rel=0.03)
    assert abs(german - english) > 0.05 * english


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"voice": "germn"}, "no voice germn; did you mean German"),
        ({"voice": "xx"}, "no voice xx; quill speak --voice list"),
        ({"voice": "en-us+f33"}, r"no variant \+f33; did you mean f3"),
        ({"voice": "../../etc/passwd"}, "no voice"),
        ({"voice": "de", "language": "fr"}, "give one of them"),
    ],
)
def test_a_voice_that_is_not_there_is_named(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_espeak(VoiceFields(**settings))  # type: ignore[arg-type]
