"""CMU PocketSphinx: English speech to text, rough, with a model that comes with the package."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings
from quillgpt.console import warn
from quillgpt.errors import ConfigError
from quillgpt.extras import import_extra
from quillgpt.speech.recognition.pieces import cuts
from quillgpt.speech.recognition.transcript import SAMPLE_RATE, Segment, compression

ENGLISH = ("en", "english")
DITHER = 4
"""Largest value of the noise that is added to samples of 16 bits: the features of digital silence are undefined."""

DITHER_SEED = 1337
AGGRESSIVE = 2
"""The detector's mode, of 0 to 3; below 2 it takes noise for speech."""

MARGIN_SECONDS = 0.1
LONGEST_SECONDS, TAIL_SECONDS = 30, 10
"""Longest utterance, and the part at its end in which a longer one is cut."""

FRAMES_PER_SECOND = 100


class PocketsphinxRecognizer:
    """Recognizes English speech on a CPU, one utterance after the other.

    Args:
        settings: The settings; of its own kind, pocketsphinx has only `vad`.
        because: What the warning that it is rough adds: why it is used, or what else could be.

    Raises:
        UserError: The package is missing, or the settings ask for another language or model.
    """

    name = "pocketsphinx en-us"
    language = "en"

    def __init__(self, settings: RecognizerSettings, *, because: str = "--engine=whisper is accurate") -> None:
        if not is_english(settings.language):
            raise ConfigError(
                f"--language={settings.language}: pocketsphinx knows only English; --engine=whisper knows others"
            )
        if settings.model is not None:
            raise ConfigError(
                f"--model={settings.model}: pocketsphinx has only the model of its package; leave out --model, or add "
                "--engine=whisper"
            )
        self._package = import_extra("pocketsphinx", extra="voice", purpose="transcribing with pocketsphinx")
        self._vad = settings.vad
        self._decoder = self._package.Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
        warn(f"pocketsphinx is rough, and knows only English: expect many wrong words; {because}")

    def begin(self) -> None:
        """Get ready for another recording; nothing is kept of the one before."""

    def segments(self, samples: NDArray[np.float32]) -> Iterator[Segment]:
        """Yield an utterance at a time; its confidence is the mean posterior probability of its words."""
        self._decoder.reinit_feat()  # it adapts to what it hears; the result should not depend on earlier recordings
        noise = np.random.default_rng(DITHER_SEED).integers(-DITHER, DITHER, len(samples), np.int16, endpoint=True)
        pcm = np.clip(np.rint(samples * 32767) + noise, -32768, 32767).astype(np.int16)
        for first, last in self._utterances(pcm) if self._vad else [(0, len(pcm))]:
            for start, end in cuts(samples[first:last], LONGEST_SECONDS * SAMPLE_RATE, TAIL_SECONDS * SAMPLE_RATE):
                segment = self._decode(pcm[first + start : first + end], (first + start) / SAMPLE_RATE)
                if segment is not None:
                    yield segment

    def _utterances(self, pcm: NDArray[np.int16]) -> Iterator[tuple[int, int]]:
        """Yield where speech begins and ends."""
        endpointer = self._package.Endpointer(vad_mode=AGGRESSIVE, sample_rate=SAMPLE_RATE)
        margin, length = round(MARGIN_SECONDS * SAMPLE_RATE), endpointer.frame_bytes // pcm.itemsize
        for position in range(0, len(pcm), length):
            frame = pcm[position : position + length]
            if len(frame) < length:
                frame = np.pad(frame, (0, length - len(frame)))
            was_speech = endpointer.in_speech
            endpointer.process(frame.tobytes())
            if was_speech and not endpointer.in_speech:
                yield self._around(endpointer.speech_start, endpointer.speech_end, margin, len(pcm))
        if endpointer.in_speech:
            yield self._around(endpointer.speech_start, len(pcm) / SAMPLE_RATE, margin, len(pcm))

    @staticmethod
    def _around(start: float, end: float, margin: int, length: int) -> tuple[int, int]:
        return max(0, round(start * SAMPLE_RATE) - margin), min(length, round(end * SAMPLE_RATE) + margin)

    def _decode(self, pcm: NDArray[np.int16], offset: float) -> Segment | None:
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), full_utt=True)
        self._decoder.end_utt()
        words = [word for word in self._decoder.seg() or () if word.word[0] not in "<[+"]
        if not words:
            return None
        text = " ".join(word.word.partition("(")[0] for word in words)  # the(2) is a second pronunciation
        return Segment(
            start=offset + words[0].start_frame / FRAMES_PER_SECOND,
            end=offset + (words[-1].end_frame + 1) / FRAMES_PER_SECOND,
            text=text,
            confidence=min(1.0, float(np.mean([word.prob for word in words]))),
            compression=compression(text),
        )


def is_english(language: str | None) -> bool:
    """Whether a language is English as users write it, such as `en-US`, or is not given."""
    return language is None or language.strip().lower().replace("_", "-").partition("-")[0] in ENGLISH
