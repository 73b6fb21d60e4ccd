"""A wav file that is written while the speech comes, and that is whole whenever it ends."""

from __future__ import annotations

import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.paths import STANDARD_INPUT, exists
from quillgpt.errors import ConfigError, UserError
from quillgpt.files import atomic_path

SUFFIXES = (".wav", ".wave")
STANDARD_OUTPUT = STANDARD_INPUT
"""The name that means standard output, as it means standard input elsewhere."""

HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
UNKNOWN = 0xFFFF_FFFF
"""The size of a wav in a pipe, whose beginning cannot be written again."""

MOST_BYTES = UNKNOWN - HEADER.size - 2
SAMPLE_BYTES = 2


class WavWriter:
    """Writes one channel of 16 bits.

    Attributes:
        name: The file's name in messages.
        samples: How many were written.

    Args:
        file: An unbuffered file, or a pipe.
        sample_rate: Samples per second.
        name: The file's name in messages.
        is_stream: Whether the file may be a pipe, or have something else in it, so that its beginning is not written
            again.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, name: str, *, is_stream: bool = False) -> None:
        self.name = name
        self.samples = 0
        self._is_stream = is_stream
        self._file = file
        self._sample_rate = sample_rate
        self._write(self._header(UNKNOWN))

    def write(self, samples: NDArray[np.int16]) -> None:
        """Write samples.

        Raises:
            UserError: They cannot be written, or the file would be too long for a wav.
            BrokenPipeError: Nobody reads any more.
        """
        if (self.samples + samples.size) * SAMPLE_BYTES > MOST_BYTES:
            raise UserError(f"{self.name} is full: a wav holds 4 GiB; speak the rest of the text into another")
        self._write(samples.astype("<i2").tobytes())
        self.samples += samples.size

    def finish(self) -> None:
        """Write the size of the sound into the header, unless this is a stream."""
        if self._is_stream:
            return
        with suppress(OSError):
            self._file.seek(0)
            self._file.write(self._header(self.samples * SAMPLE_BYTES))
            self._file.seek(HEADER.size + self.samples * SAMPLE_BYTES)
            self._file.truncate()  # half a block that a full disk has taken

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        try:
            while left:
                left = left[self._file.write(left) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise unwritable(self.name, error) from None

    def _header(self, size: int) -> bytes:
        rate = self._sample_rate
        whole = size if size == UNKNOWN else size + HEADER.size - 8
        sound = (b"fmt ", 16, 1, 1, rate, rate * SAMPLE_BYTES, SAMPLE_BYTES, 8 * SAMPLE_BYTES)
        return HEADER.pack(b"RIFF", whole, b"WAVE", *sound, b"data", size)


def check_wav(out: str, *, overwrite: bool) -> None:
    """Check that speech can be written to a file, or to standard output, before any work.

    Raises:
        ConfigError: The name is that of another format, of a folder, or of an existing file that may not be replaced.
    """
    if out == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise ConfigError("--out - writes a wav, which a terminal cannot show; send it on: ... --out - | aplay")
        return
    path = Path(out)
    if exists(path) and path.is_dir():
        raise ConfigError(f"--out={out} is a folder; give the name of a file: --out {path / 'speech.wav'}")
    if _is_device(path):
        return
    suffix = path.suffix.lower()
    if not path.name.lower().endswith(SUFFIXES):
        wav = path.with_suffix(".wav")
        make = f", and other programs make {suffix} of it: ffmpeg -i {wav} {out}" if suffix else ""
        raise ConfigError(
            f"--out={out} does not end with .wav, the only format that is written; give --out {wav}{make}"
        )
    if exists(path) and not overwrite:
        raise ConfigError(f"{out} exists already; give another --out, or --overwrite to replace it")


@contextmanager
def open_wav(out: str, sample_rate: int) -> Iterator[WavWriter]:
    """Open a wav, which has the name `out` when the block ends, with all that was written until then.

    This holds for a block that raises an exception too. A file without any sound is not made.

    Raises:
        UserError: It cannot be written.
    """
    if out == STANDARD_OUTPUT or _is_device(Path(out)):
        with _open_stream(out) as file:
            name = "standard output" if out == STANDARD_OUTPUT else out
            wav = WavWriter(file, sample_rate, name, is_stream=not _is_new_file(file))
            try:
                yield wav
            finally:
                wav.finish()
        return
    failure: BaseException | None = None
    try:
        with suppress(_EmptyError), atomic_path(Path(out)) as temporary:
            with temporary.open("wb", buffering=0) as file:
                wav = WavWriter(file, sample_rate, out)
                try:
                    yield wav
                except BaseException as error:
                    failure = error
                wav.finish()
            if not wav.samples:
                raise _EmptyError
    except OSError as error:
        if failure is None:
            raise unwritable(out, error) from None
    if failure is not None:
        raise failure


def unwritable(name: str, error: OSError) -> UserError:
    """Return the error of a file that cannot be written."""
    return UserError(f"{name} cannot be written ({error.strerror or error}); choose another --out")


def free_name(name: str = "speech.wav") -> str:
    """Return a name that no file here has: speech.wav, speech-2.wav and so on."""
    path, number = Path(name), 2
    while os.path.lexists(path):
        path, number = Path(name).with_stem(f"{Path(name).stem}-{number}"), number + 1
    return str(path)


class _EmptyError(Exception):
    """No sound was written."""


@contextmanager
def _open_stream(out: str) -> Iterator[BinaryIO]:
    if out != STANDARD_OUTPUT:
        try:
            file = Path(out).open("wb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise unwritable(out, error) from None
        with file:
            yield file
        return
    sys.stdout.flush()
    with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as file:
        yield file


def _is_new_file(file: BinaryIO) -> bool:
    """Return whether a stream is an empty file that is not open for appending, as behind `>` in a shell."""
    if sys.platform == "win32":
        return False
    import fcntl

    state = os.fstat(file.fileno())
    appends = fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
    return stat.S_ISREG(state.st_mode) and state.st_size == 0 and not appends


def _is_device(path: Path) -> bool:
    """Return whether something is there that is neither file nor folder, such as a pipe or /dev/null."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
