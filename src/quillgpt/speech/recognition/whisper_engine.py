"""Whisper by faster-whisper: accurate speech to text in 99 languages, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import RecognizerSettings
from quillgpt.console import warn
from quillgpt.errors import CheckpointError, ConfigError, DeviceError, UserError, cut
from quillgpt.extras import import_extra
from quillgpt.process import usable_cores
from quillgpt.speech.recognition.pieces import cuts
from quillgpt.speech.recognition.transcript import SAMPLE_RATE, Segment, compression
from quillgpt.speech.recognition.whisper_models import DEFAULT_MODEL, FEATURES, whisper_folder

FORMATS = {"cuda": ("float16", "float32"), "cpu": ("int8", "float32")}
"""The number formats that are tried, in this order, where none is asked for."""

GPU_BATCH = 8
"""Pieces at a time on a GPU. On a CPU it is one, since only a single piece is tried again when it fails."""

PIECE_SECONDS, TAIL_SECONDS = 30, 10
LANGUAGE_NAMES = {
    "arabic": "ar",
    "chinese": "zh",
    "czech": "cs",
    "danish": "da",
    "dutch": "nl",
    "english": "en",
    "finnish": "fi",
    "french": "fr",
    "german": "de",
    "greek": "el",
    "hebrew": "he",
    "hindi": "hi",
    "hungarian": "hu",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "mandarin": "zh",
    "norwegian": "no",
    "polish": "pl",
    "portuguese": "pt",
    "romanian": "ro",
    "russian": "ru",
    "spanish": "es",
    "swedish": "sv",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
}
"""Languages that are often given by name; all others by their code."""

SURE_OF_LANGUAGE = 0.5
SEED = 1337
"""What fails is decoded again with random choices: the same in every run."""

SPEECH = 0.5
"""With a probability of no speech below it, a segment tells the language."""

LANGUAGE_PIECES = 4
"""Pieces of 30 seconds that are listened to until the language is clear."""


class WhisperRecognizer:
    """Recognizes speech with a model of Whisper.

    No text is carried from one piece of 30 seconds to the next. It would keep names spelled alike, but a mistake would
    be carried on too, and Whisper then falls into loops.

    Args:
        settings: The settings.

    Raises:
        UserError: A package, the model, the device or the number format is missing, or the settings contradict it.
    """

    def __init__(self, settings: RecognizerSettings) -> None:
        given = DEFAULT_MODEL if settings.model is None else str(settings.model)
        self._library = import_extra("ctranslate2", extra="whisper", purpose="transcribing with whisper")
        self._package = import_extra("faster_whisper", extra="whisper", purpose="transcribing with whisper")
        logging.getLogger("faster_whisper").setLevel(logging.ERROR)
        device, index = _device(settings.device, self._library.get_cuda_device_count())
        self._given_language = _language(settings.language)
        if device == "cpu":
            self._compute_type(settings.compute_type, device, index)
        folder = whisper_folder(given)
        try:
            self._model = self._load(folder, device, index, settings)
        except DeviceError as error:
            if settings.device != "auto" or device == "cpu":
                raise
            warn(f"{error}; the CPU is used instead, which is much slower")
            device = "cpu"
            self._model = self._load(folder, device, 0, settings)
        self.name = f"whisper {Path(given).name or folder.resolve().name}"
        if self._given_language is not None and not self._knows(self._given_language):
            others = "another --model" if self._knows_many else "a model whose name does not end in .en"
            raise ConfigError(f"--language={settings.language}: the model {given} does not know it; choose {others}")
        if not self._knows_many:
            self._given_language = "en"
        self.language = self._given_language
        self._vad = settings.vad
        self._batch = settings.batch_size or (GPU_BATCH if device == "cuda" else 1)
        self._batched = self._package.BatchedInferencePipeline(self._model) if self._batch > 1 else None

    def _load(self, folder: Path, device: str, index: int, settings: RecognizerSettings) -> Any:
        """Return the model on a device; on a GPU, after a first piece of work there."""
        compute_type = self._compute_type(settings.compute_type, device, index)
        try:
            model = self._package.WhisperModel(
                str(folder),
                device=device,
                device_index=index,
                compute_type=compute_type,
                cpu_threads=settings.threads or usable_cores(),
                local_files_only=True,
            )
        except Exception as error:  # CTranslate2 raises RuntimeError and ValueError, tokenizers a bare Exception
            raise _unloadable(folder, error) from error
        expected, made = model.model.n_mels, len(model.feature_extractor.mel_filters)
        if expected != made:
            raise CheckpointError(
                f"{folder} reads {expected} frequency bands, but {made} are made: it lacks its {FEATURES}, or has that "
                "of another model"
            )
        if device == "cuda":  # its libraries are loaded at the first work
            try:
                model.encode(np.zeros((expected, model.feature_extractor.nb_max_frames), dtype=np.float32))
            except (RuntimeError, MemoryError) as error:
                raise _failed(error) from error
        return model

    def _compute_type(self, given: str | None, device: str, index: int) -> str:
        """Return the number format; the first of `FORMATS` that the device has if none is given."""
        try:
            supported = sorted(self._library.get_supported_compute_types(device, index))
        except RuntimeError as error:
            raise _failed(error) from error
        if given is None:
            return next((name for name in FORMATS[device] if name in supported), "default")
        name = given.strip().lower()
        if name not in (*supported, "auto", "default"):
            raise ConfigError(
                f"--compute_type={given} is not supported by this {'GPU' if device == 'cuda' else 'CPU'}; it has "
                f"{', '.join(supported)}"
            )
        return name

    def begin(self) -> None:
        """Forget the language of the recording before."""
        self.language = self._given_language

    def _knows(self, language: str) -> bool:
        token = self._model.hf_tokenizer.token_to_id(f"<|{language}|>")
        return token is not None if self._knows_many else language == "en"

    @property
    def _knows_many(self) -> bool:
        return bool(self._model.model.is_multilingual)

    def segments(self, samples: NDArray[np.float32]) -> Iterator[Segment]:
        """Yield the segments of a stretch; Whisper's confidence is that of the piece of 30 seconds around a segment."""
        self._library.set_random_seed(SEED)
        length = len(samples) / SAMPLE_RATE
        try:
            language, is_clear = (self.language, True) if self.language else self._detect(samples)
            for heard in self._transcribe(samples, language):
                if is_clear and heard.no_speech_prob < SPEECH:
                    self.language = language
                text = heard.text.strip()
                start, end = float(heard.start), float(heard.end)
                yield Segment(
                    start=start,
                    end=min(end, max(start, length)),  # Whisper fills up its last piece, and may end beyond the audio
                    text=text,
                    confidence=min(1.0, math.exp(heard.avg_logprob)),
                    no_speech=min(1.0, max(0.0, float(heard.no_speech_prob))),
                    compression=max(float(heard.compression_ratio), compression(text)),
                )
        except (RuntimeError, MemoryError) as error:
            raise _failed(error) from error

    def _detect(self, samples: NDArray[np.float32]) -> tuple[str, bool]:
        """Return the language of a stretch, and whether it is clear. Silence has one too: speech must follow."""
        language, probability, _ = self._model.detect_language(
            samples,
            vad_filter=self._vad,
            language_detection_segments=LANGUAGE_PIECES,
            language_detection_threshold=SURE_OF_LANGUAGE,
        )
        return str(language), probability > SURE_OF_LANGUAGE

    def _transcribe(self, samples: NDArray[np.float32], language: str) -> Any:
        # What Whisper would skip without a word as silence is yielded: the filters say so.
        common: dict[str, Any] = {"language": language, "no_speech_threshold": None, "vad_filter": self._vad}
        if self._batched is None:
            heard, _ = self._model.transcribe(samples, condition_on_previous_text=False, **common)
            return heard
        if not self._vad:
            common["clip_timestamps"] = [
                {"start": start / SAMPLE_RATE, "end": end / SAMPLE_RATE}
                for start, end in cuts(samples, PIECE_SECONDS * SAMPLE_RATE, TAIL_SECONDS * SAMPLE_RATE)
            ]
        heard, _ = self._batched.transcribe(samples, batch_size=self._batch, without_timestamps=False, **common)
        return heard


def _device(given: str, gpus: int) -> tuple[str, int]:
    """Return the device for CTranslate2, and its number."""
    if given == "auto":
        return ("cuda" if gpus else "cpu"), 0
    kind, _, number = given.partition(":")
    if kind == "mps":
        raise DeviceError("--device=mps: whisper runs on CPUs and NVIDIA GPUs only; use --device=cpu")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()) or (kind == "cpu" and number):
        raise DeviceError(f"--device={given} is no device; expected auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not gpus:
        raise DeviceError(
            f"--device={given}, but CTranslate2 sees no NVIDIA GPU here; use --device=cpu or --device=auto"
        )
    if int(number or 0) >= max(gpus, 1):
        raise DeviceError(f"--device={given}, but there are {gpus} GPUs here, cuda:0 to cuda:{gpus - 1}")
    return kind, int(number or 0)


def _language(given: str | None) -> str | None:
    """Return the code of a language that is given as users write it; None if it is to be detected."""
    name = "auto" if given is None else given.strip().lower().replace("_", "-").partition("-")[0]
    if name == "auto":
        return None
    code = LANGUAGE_NAMES.get(name, name)
    known = import_extra(
        "faster_whisper.tokenizer", extra="whisper", purpose="transcribing with whisper"
    )._LANGUAGE_CODES
    if code not in known:
        raise ConfigError(f"--language={given} is no language of whisper; give a code: {', '.join(known)}")
    return code


def _unloadable(folder: Path, error: Exception) -> UserError:
    """Return the error for a model that could not be loaded."""
    is_about_the_device = any(word in str(error).lower() for word in ("cuda", "cublas", "cudnn", "library", "memory"))
    if isinstance(error, MemoryError) or is_about_the_device:
        return _failed(error)
    reason = cut(" ".join(str(error).split()) or type(error).__name__, 200)
    return CheckpointError(
        f"{folder} cannot be loaded as a model of Whisper ({reason}); get it again, or convert it again"
    )


def _failed(error: Exception) -> UserError:
    """Return the error for work that a device could not do."""
    reason = cut(" ".join(str(error).split()) or type(error).__name__, 200)
    if isinstance(error, MemoryError) or "memory" in reason.lower():
        return DeviceError(
            f"the device has too little memory for whisper ({reason}); give a smaller --batch_size or --model, or "
            "--compute_type=int8"
        )
    if "library" in reason.lower():
        return DeviceError(
            f"whisper needs cuBLAS of CUDA 12 to use the GPU ({reason}): pip install nvidia-cublas-cu12, and put its "
            "lib folder on LD_LIBRARY_PATH; or use --device=cpu"
        )
    if "driver" in reason.lower():
        return DeviceError(f"whisper cannot use the GPU ({reason}); update its driver, or use --device=cpu")
    return DeviceError(f"whisper failed ({reason}); try --device=cpu or another --compute_type")
