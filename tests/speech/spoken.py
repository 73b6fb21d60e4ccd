"""Speech for tests, made by espeak-ng on this machine, and how much of it was understood."""

from __future__ import annotations

import ctypes
import functools
import re
import wave
from collections import Counter
from pathlib import Path

import av
import espeakng_loader
import numpy as np
from numpy.typing import NDArray

from quillgpt.speech.recognition.transcript import SAMPLE_RATE

SYNCHRONOUS = 2
UTF8 = 1
RATE = 1
LARGEST_PIECE_MILLISECONDS = 200

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

TEXT = (
    "the old man walked down the road to the house. he had a big dog with him. "
    "they stopped at the door and waited for the people inside."
)
"""A text of words that every recognizer knows."""


@functools.cache
def _espeak() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    folder = espeakng_loader.get_data_path().encode()
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, LARGEST_PIECE_MILLISECONDS, folder, 0)
    assert sample_rate > 0
    return library, sample_rate


def speech(text: str, words_per_minute: int = 150) -> tuple[NDArray[np.int16], int]:
    """Return a text as spoken by espeak-ng, and the sample rate."""
    library, sample_rate = _espeak()
    pieces: list[NDArray[np.int16]] = []

    def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    callback = Callback(receive)
    library.espeak_SetSynthCallback(callback)
    assert library.espeak_SetVoiceByName(b"en-us+f5") == 0
    library.espeak_SetParameter(RATE, words_per_minute, 0)
    content = text.encode()
    assert library.espeak_Synth(content, len(content) + 1, 0, 1, 0, UTF8, None, None) == 0
    assert library.espeak_Synchronize() == 0
    return np.concatenate(pieces), sample_rate


def speech_for_recognizers(text: str, words_per_minute: int = 150) -> NDArray[np.float32]:
    """Return a text as speech at the sample rate that recognizers read."""
    samples, sample_rate = speech(text, words_per_minute)
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = sample_rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    frames = resampler.resample(frame) + resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def speak_to(path: Path, text: str, words_per_minute: int = 150) -> Path:
    """Write a text as speech to a wav file of 16 bits, and return its path."""
    samples, sample_rate = speech(text, words_per_minute)
    return write_wav(path, samples, sample_rate)


def write_wav(path: Path, samples: NDArray[np.int16], sample_rate: int) -> Path:
    """Write samples, (N,) or (N, channels), to a wav file of 16 bits, and return its path."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def words(text: str) -> Counter[str]:
    """Return how often each word occurs, in lower case and without punctuation."""
    return Counter(re.findall(r"[a-z']+", text.lower()))


def overlap(said: str, heard: str) -> float:
    """Return the F1 score of words heard: the harmonic mean of the shares of words that are in the other text too."""
    common = (words(said) & words(heard)).total()
    return 2 * common / (words(said).total() + words(heard).total())
