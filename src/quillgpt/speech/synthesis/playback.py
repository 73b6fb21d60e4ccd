"""The sound device, by PortAudio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.errors import UserError, cut
from quillgpt.extras import import_extra


class NoDeviceError(Exception):
    """No sound can be played here; the message says why, and what helps."""


class Player:
    """Plays samples as they come.

    Attributes:
        name: What plays, in messages.
        samples: How many were played.

    Args:
        stream: A stream of sounddevice for output.
    """

    name = "the sound device"

    def __init__(self, stream: Any) -> None:
        self.samples = 0
        self._stream = stream

    def write(self, samples: NDArray[np.int16]) -> None:
        """Play samples; returns when the device has taken them.

        Raises:
            UserError: The device fails, such as one that was unplugged.
        """
        try:
            self._stream.write(np.ascontiguousarray(samples[:, None]))
        except Exception as error:  # PortAudioError, a class of the module that is imported late
            raise UserError(
                f"the sound device failed ({cut(str(error))}); --out FILE.wav writes a file instead"
            ) from None
        self.samples += samples.size


@contextmanager
def open_player(sample_rate: int) -> Iterator[Player]:
    """Open the usual sound device; what it has taken is played to its end unless the block raises an exception.

    Raises:
        NoDeviceError: There is none, or the library is missing that plays on it.
        UserError: The package sounddevice is not installed.
    """
    try:
        sounddevice = import_extra("sounddevice", extra="voice", purpose="Playing speech")
    except OSError:
        raise NoDeviceError(
            "playing needs the library PortAudio, which is not installed (sudo apt install libportaudio2)"
        ) from None
    try:
        stream = sounddevice.OutputStream(samplerate=sample_rate, channels=1, dtype="int16")
        stream.start()
    except (ValueError, sounddevice.PortAudioError) as error:
        raise NoDeviceError(f"there is no sound device to play on ({cut(str(error))})") from None
    try:
        yield Player(stream)
        with suppress(sounddevice.PortAudioError):
            stream.stop()
    finally:
        with suppress(sounddevice.PortAudioError):
            stream.abort()
            stream.close()
