"""The voices of eSpeak NG, a library that the package espeakng-loader brings with its data."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import VoiceFields
from quillgpt.errors import ConfigError, UserError, did_you_mean
from quillgpt.extras import import_extra

DEFAULT = "en-us"
OTHER_CODES = {"zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn", "no": "nb"}
"""Usual codes of languages, and those of espeak."""

LIST = "quill speak --voice list shows the voices"

# From espeak-ng's speak_lib.h.
SYNCHRONOUS, DO_NOT_EXIT = 2, 0x8000
BY_CHARACTERS, UTF8, PAUSE_AT_END = 1, 1, 0x1000
RATE = 1

LONGEST_FOLDER = 120
"""Bytes; the library keeps the path of its data in 160, with the names of subfolders."""

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Listed(ctypes.Structure):
    """The beginning of espeak_VOICE."""

    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_void_p), ("identifier", ctypes.c_char_p))


@dataclass(frozen=True)
class ListedVoice:
    """A voice that espeak has.

    Attributes:
        code: Its language, by which it is chosen.
        name: Its language in English.
        file: Its file among espeak's data.
    """

    code: str
    name: str
    file: str


class EspeakVoice:
    """A voice of espeak.

    Args:
        language: The code of its language.
        name: Its name for the user.
        choice: Its name for the library: a file or a code, perhaps with a variant.
        rate: Words per minute.
    """

    def __init__(self, language: str, name: str, choice: str, rate: int) -> None:
        self.language = language
        self.name = f"espeak {name}"
        self.sample_rate, self._library = _start()
        self._choice = choice.encode()
        self._rate = rate

    def say(self, text: str) -> Iterator[NDArray[np.int16]]:
        """Yield a sentence as sound, one channel.

        Raises:
            UserError: The library reports an error.
        """
        pieces: list[NDArray[np.int16]] = []

        def receive(samples: ctypes._Pointer[ctypes.c_short], count: int, _: int | None) -> int:
            if samples and count > 0:
                pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        # The library has one voice, one rate and one callback.
        self._library.espeak_SetVoiceByName(self._choice)
        self._library.espeak_SetParameter(RATE, self._rate, 0)
        callback = Callback(receive)
        self._library.espeak_SetSynthCallback(callback)
        written = text.encode()
        size = ctypes.c_size_t(len(written) + 1)
        status = self._library.espeak_Synth(written, size, 0, BY_CHARACTERS, 0, UTF8 | PAUSE_AT_END, None, None)
        if status:
            raise UserError(f"{self.name} could not speak {text[:40]!r} (error {status} of espeak)")
        yield from pieces


def open_espeak(settings: VoiceFields) -> EspeakVoice:
    """Return the voice of espeak that the settings name, at their rate; without a name, English.

    Raises:
        UserError: The extra is not installed, or there is no such voice.
    """
    if settings.voice is not None and settings.voice.endswith(".onnx"):
        raise ConfigError(f"--engine=espeak cannot use {settings.voice}, a voice file of piper; leave out --engine")
    name = _full_name(settings.voice, settings.language)
    language, plus, variant = name.partition("+")
    language = language.replace("_", "-")
    if plus and variant not in variants():
        raise ConfigError(f"espeak has no variant +{variant}{did_you_mean(variant, variants()) or f'; {LIST}'}")
    known = {word.lower(): voice for voice in _all_voices() for word in (voice.name, voice.code)}
    voice = known.get(OTHER_CODES.get(language.lower(), language.lower()))
    if voice is not None and not _has_dictionary(voice):
        raise ConfigError(f"espeak's voice {voice.code} has no dictionary in this version of espeakng-loader; {LIST}")
    choice = (voice.file if voice else language) + plus + variant
    _, library = _start()
    if library.espeak_SetVoiceByName(choice.encode()):  # which knows more than it lists, such as en
        raise ConfigError(f"espeak has no voice {language[:40]}{did_you_mean(language, known) or f'; {LIST}'}")
    return EspeakVoice(voice.code if voice else language.lower(), name, choice, settings.rate)


def listed_voices() -> list[ListedVoice]:
    """Return espeak's voices that have a dictionary here, one for each language or dialect."""
    return list(filter(_has_dictionary, _all_voices()))


def variants() -> list[str]:
    """Return the names of speakers that can be added to each voice, as in en-us+f3."""
    return sorted(path.name for path in Path(_data(), "voices", "!v").iterdir())


def _all_voices() -> list[ListedVoice]:
    _, library = _start()
    library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Listed))
    voices, listed = [], library.espeak_ListVoices(None)
    for place in listed:
        if not place:
            break
        voice = place.contents
        # Each language is a byte of priority and a name; the first is the usual one.
        code = ctypes.string_at(voice.languages + 1).decode()
        voices.append(ListedVoice(code, voice.name.decode().strip(), voice.identifier.decode()))
    return voices


def _has_dictionary(voice: ListedVoice) -> bool:
    """Return whether a voice can read words; the wheels of espeakng-loader lack some dictionaries."""
    lines = Path(_data(), "lang", voice.file).read_text("utf-8", "replace").splitlines()
    named = [line.split()[1] for line in lines if line.startswith("dictionary ")]
    return Path(_data(), f"{(*named, voice.code.partition('-')[0])[0]}_dict").exists()


def _full_name(voice: str | None, language: str | None) -> str:
    if voice is None or not voice.strip():
        voice = language or DEFAULT
    elif voice.startswith("+"):
        voice = (language or DEFAULT) + voice
    return voice.strip()


@functools.cache
def _start() -> tuple[int, ctypes.CDLL]:
    """Load the library, which speaks for one caller at a time, and return its sample rate with it."""
    loader = import_extra("espeakng_loader", extra="voice", purpose="Speaking with espeak")
    try:
        library = ctypes.CDLL(loader.get_library_path())
    except OSError as error:
        raise UserError(f"espeak cannot be loaded ({error}); install it anew: pip install espeakng-loader") from None
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, os.fsencode(_data()), DO_NOT_EXIT)
    if sample_rate <= 0:
        raise UserError(f"espeak cannot read its data in {_data()}; install it anew: pip install espeakng-loader")
    return sample_rate, library


@functools.cache
def _data() -> Path:
    """Return the folder of espeak's data, elsewhere if its path is longer than the library can keep."""
    loader = import_extra("espeakng_loader", extra="voice", purpose="Speaking with espeak")
    try:
        folder = Path(loader.get_data_path())
    except RuntimeError as error:
        raise UserError(f"espeak's data is missing ({error}); install it anew: pip install espeakng-loader") from None
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return folder
    elsewhere = Path(tempfile.mkdtemp(prefix="quill-espeak-"))
    atexit.register(shutil.rmtree, elsewhere, ignore_errors=True)
    try:
        (elsewhere / folder.name).symlink_to(folder, target_is_directory=True)
    except OSError:  # Windows lets only some users make links
        shutil.copytree(folder, elsewhere / folder.name)
    return elsewhere / folder.name
