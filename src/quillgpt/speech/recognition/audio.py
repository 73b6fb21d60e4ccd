"""Recordings as recognizers read them: any file that ffmpeg's libraries decode, in bounded memory."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quillgpt.console import clock_time
from quillgpt.errors import DataError, check_is_no_pointer
from quillgpt.extras import import_extra
from quillgpt.speech.recognition.pieces import quietest
from quillgpt.speech.recognition.transcript import SAMPLE_RATE

STRETCH_SECONDS, TAIL_SECONDS = 300, 30
"""The longest stretch of a recording, and the part at its end in which it is cut."""

LOOKED_AT_BYTES = 4096
NO_PROTOCOL = {"protocol_whitelist": "none"}
"""A file may be a playlist, which must not open other files or addresses."""


def decoder(extra: str = "voice") -> ModuleType:
    """Return the package that decodes recordings; its wheels bring ffmpeg's libraries with them.

    Args:
        extra: The extra to install if it is missing.

    Raises:
        UserError: It is not installed.
    """
    package = import_extra("av", extra=extra, purpose="reading recordings")
    package.logging.set_level(None)  # errors are raised; ffmpeg's own lines would come between Quill's
    return package


@dataclass
class OpenRecording:
    """A recording that is open.

    Attributes:
        path: The file.
        duration: Seconds that its header says it has; None if it does not say.
        remarks: What the user should know about it, such as that it is a video.
        loudest: The largest sample so far, from 0 to 1.
    """

    path: Path
    duration: float | None
    remarks: list[str]
    _container: Any
    _stream: Any
    _package: ModuleType
    loudest: float = 0.0
    _count: int = 0

    @property
    def seconds(self) -> float:
        """How much has been read so far."""
        return self._count / SAMPLE_RATE

    def stretches(
        self, longest: float = STRETCH_SECONDS, tail: float = TAIL_SECONDS
    ) -> Iterator[tuple[float, NDArray[np.float32]]]:
        """Yield the recording piece by piece: where each begins, in seconds, and one channel at `SAMPLE_RATE`.

        Args:
            longest: Seconds in a stretch.
            tail: A stretch is cut where the last so many seconds of it are quietest.

        Raises:
            DataError: It cannot be decoded, or has no sound at all.
        """
        most, margin = round(longest * SAMPLE_RATE), round(tail * SAMPLE_RATE)
        waiting, count, start = list[NDArray[np.float32]](), 0, 0
        for samples in self._samples():
            waiting.append(samples)
            count += len(samples)
            if count < most:
                continue
            whole = np.concatenate(waiting)
            while len(whole) >= most:
                end = quietest(whole, most - margin, most)
                yield start / SAMPLE_RATE, whole[:end]
                start, whole = start + end, whole[end:].copy()
            waiting, count = [whole], len(whole)
        if count:
            yield start / SAMPLE_RATE, np.concatenate(waiting)
        elif not start:
            raise DataError(f"{self.path} has no sound: it is damaged, or too short")

    def _samples(self) -> Iterator[NDArray[np.float32]]:
        damaged = 0
        resampler, form = None, None
        for packet in self._packets():
            try:
                frames = packet.decode()
            except self._package.error.EOFError:
                continue
            except (self._package.error.FFmpegError, ValueError):
                damaged += 1
                continue
            for frame in frames:
                of_frame = (frame.format.name, frame.layout.name, frame.sample_rate)
                if resampler is None or of_frame != form:  # the form may change in the middle, as in radio streams
                    if resampler is not None:
                        yield from self._heard(resampler.resample(None))
                    resampler, form = self._resampler(), of_frame
                frame.pts = None  # gaps are closed, since what is read is counted
                yield from self._heard(resampler.resample(frame))
        if resampler is not None:
            yield from self._heard(resampler.resample(None))
        if damaged and self.seconds:
            self.remarks.append(f"is damaged: {damaged:,} of its packets could not be decoded and are left out")
        if self.duration is not None and self.seconds < 0.95 * self.duration - 1 and self.seconds:
            self.remarks.append(
                f"ends early: its header says {clock_time(self.duration)}, it has {clock_time(self.seconds)}"
            )

    def _packets(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._package.error.InvalidDataError:
                self.remarks.append(f"is damaged: it cannot be read after {clock_time(self.seconds)}")
                return
            except (self._package.error.FFmpegError, OSError) as error:
                raise DataError(f"{self.path} cannot be read to its end: {error.strerror or error}") from None
            yield packet

    def _resampler(self) -> Any:
        return self._package.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    def _heard(self, frames: list[Any]) -> Iterator[NDArray[np.float32]]:
        for frame in frames:
            samples = np.nan_to_num(frame.to_ndarray()[0], nan=0.0, posinf=1.0, neginf=-1.0).clip(-1, 1)
            self.loudest = max(self.loudest, float(np.abs(samples).max(initial=0.0)))
            self._count += len(samples)
            yield samples


@contextmanager
def open_recording(path: Path) -> Iterator[OpenRecording]:
    """Open a recording: an audio file, or a video, of which the sound is used.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, empty, unreadable or no recording, or is a video without sound.
    """
    package = decoder()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is not a file")
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from None
    with file:
        beginning = file.read(LOOKED_AT_BYTES)
        file.seek(0)
        if not beginning:
            raise DataError(f"{path} is empty")
        check_is_no_pointer(beginning, path, DataError)
        try:
            container = package.open(file, options=NO_PROTOCOL)
        except (package.error.FFmpegError, ValueError) as error:
            raise DataError(f"{path} is no recording that can be decoded: {_what_it_is(beginning, error)}") from None
        with container:
            yield _opened(path, container, package)


def _opened(path: Path, container: Any, package: ModuleType) -> OpenRecording:
    sounds = list(container.streams.audio)
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & package.stream.Disposition.attached_pic  # the cover of a song
    ]
    if not sounds:
        is_picture = container.format.name.endswith("_pipe") or container.format.name == "image2"
        kind = "a picture" if is_picture else "a video without sound" if pictures else "no recording: it has no sound"
        raise DataError(f"{path} is {kind}")
    stream = container.streams.best("audio") or sounds[0]
    if stream.codec_context is None:
        raise DataError(f"{path} is encoded in a way that cannot be decoded; convert it to wav or flac")
    remarks = []
    if pictures:
        remarks.append("is a video: its sound is transcribed")
    if len(sounds) > 1:
        remarks.append(f"has {len(sounds)} sound tracks: track {sounds.index(stream) + 1} is transcribed")
    if stream.duration is not None and stream.time_base is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = container.duration / package.time_base if container.duration else 0.0
    return OpenRecording(path, duration if duration > 0 else None, remarks, container, stream, package)


def reason(error: OSError) -> str:
    """Return why a file cannot be read or written, as part of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist, or has vanished meanwhile"
    return error.strerror or str(error)


def _what_it_is(beginning: bytes, error: Exception) -> str:
    try:
        text = beginning[: LOOKED_AT_BYTES - 4].decode("utf-8")
        if text.isprintable() or all(letter.isprintable() or letter.isspace() for letter in text):
            return "it is a text"
    except UnicodeDecodeError:
        pass
    if not any(beginning):
        return "it begins with zeros only, as a download that was cut short does"
    return f"it is damaged, or of another kind ({getattr(error, 'strerror', None) or error})"


def duration_of(path: Path) -> float | None:
    """Return the seconds that a recording's header says it has; None if it does not say, or cannot be opened."""
    try:
        with open_recording(path) as recording:
            return recording.duration
    except DataError:
        return None


def state_of(path: Path) -> tuple[int, int]:
    """Return size and time of the last change of a file, which differ if it has changed."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
