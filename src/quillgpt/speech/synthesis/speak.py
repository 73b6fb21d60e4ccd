"""Speaks a text sentence by sentence, while the text still comes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quillgpt.config.schema import VoiceFields
from quillgpt.console import say, warn
from quillgpt.errors import UserError
from quillgpt.speech.synthesis.playback import NoDeviceError, Player, open_player
from quillgpt.speech.synthesis.scripts import better_voice
from quillgpt.speech.synthesis.sentences import SentenceStream, spoken_form
from quillgpt.speech.synthesis.voices import Voice, open_voice
from quillgpt.speech.synthesis.wav import WavWriter, check_wav, free_name, open_wav
from quillgpt.stopping import activity

MOST_WAITING = 8
"""Sentences that wait to be spoken; then sampling waits."""

PAUSE_SECONDS = 0.7
"""The silence between two texts, such as samples."""

BLOCK_SECONDS = 0.1
POLL_SECONDS = 0.1
LONGEST_STOP_SECONDS = 0.4
"""How long an interruption waits for the sentence that is being computed."""


class Sink(Protocol):
    """Takes speech."""

    name: str
    samples: int

    def write(self, samples: NDArray[np.int16]) -> None:
        """Take samples, one channel."""


class Speaker:
    """Speaks texts in a thread of its own; use it in a `with` block, which ends when all is spoken.

    Args:
        voice: The voice.
        sink: Where the speech goes.
    """

    def __init__(self, voice: Voice, sink: Sink) -> None:
        self._voice = voice
        self._sink = sink
        self._sentences = SentenceStream()
        self._waiting: Queue[str | None] = Queue(MOST_WAITING)
        self._stopped = threading.Event()
        self._writing = threading.Lock()
        self._error: BaseException | None = None
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="voice", daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds of speech so far."""
        return self._sink.samples / self._voice.sample_rate

    def push(self, text: str) -> None:
        """Add a piece of text; waits while many sentences are to be spoken.

        Raises:
            UserError: The voice or its output has failed.
        """
        for sentence in self._sentences.push(text):
            self._hand_over(sentence)

    def end_text(self) -> None:
        """End a text, such as a sample: what comes next begins a sentence."""
        for sentence in self._sentences.finish():
            self._hand_over(sentence)
        self._hand_over("")

    def __enter__(self) -> Speaker:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.end_text()
                self._hand_over(None)
                while self._thread.is_alive():
                    self._thread.join(POLL_SECONDS)
                self._raise_error()
        finally:
            self._stopped.set()
            self._thread.join(LONGEST_STOP_SECONDS)
            with self._writing:  # from here on the thread writes nothing, even if it still computes
                pass

    def _hand_over(self, sentence: str | None) -> None:
        while True:
            self._raise_error()
            try:
                return self._waiting.put(sentence, timeout=POLL_SECONDS)
            except Full:
                continue

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        """Speak until there is nothing more."""
        pause = np.zeros(int(PAUSE_SECONDS * self._voice.sample_rate), np.int16)
        is_between_texts = False
        try:
            while (sentence := self._next()) is not None:
                is_between_texts |= not sentence
                text = spoken_form(sentence)
                if not text:
                    continue
                before = [pause] if is_between_texts and self._sink.samples else []
                is_between_texts = False
                for samples in chain(before, self._voice.say(text)):
                    if not self._write(samples):
                        return
                self._advise(text)
        except BaseException as error:
            self._error = error

    def _next(self) -> str | None:
        while not self._stopped.is_set():
            try:
                return self._waiting.get(timeout=POLL_SECONDS)
            except Empty:
                continue
        return None

    def _write(self, samples: NDArray[np.int16]) -> bool:
        """Write samples in blocks that are short enough to be interrupted; return whether all were."""
        size = int(BLOCK_SECONDS * self._voice.sample_rate)
        for first in range(0, samples.size, size):
            with self._writing:
                if self._stopped.is_set():
                    return False
                self._sink.write(samples[first : first + size])
        return True

    def _advise(self, text: str) -> None:
        """Name a voice that reads the script of a text if this one does not; once."""
        if not self._warned and (other := better_voice(text, self._voice.language)):
            self._warned = True
            warn(f"{self._voice.name} does not read the script of this text; --voice={other} does")


@contextmanager
def speaking(settings: VoiceFields, out: str | None, *, overwrite: bool = False) -> Iterator[Speaker]:
    """Open voice and output before any text is made, and speak what the block pushes.

    Without `out` the speech is played; without a sound device it is written to a file, which a warning names.

    Args:
        settings: Engine, voice, language and rate.
        out: A .wav to write, `-` for standard output, or None to play.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UserError: There is no such voice, or the speech cannot be written.
    """
    if out is not None:
        check_wav(out, overwrite=overwrite)
    voice = open_voice(settings)
    with _opened_output(out, voice.sample_rate) as sink:
        speaker = Speaker(voice, sink)

        def so_far() -> str:
            kept = f", which {sink.name} has" if sink.samples and isinstance(sink, WavWriter) else ""
            return f"after {speaker.seconds:.1f} s of speech{kept}"

        with activity(so_far):
            try:
                with speaker:
                    yield speaker
            except BrokenPipeError:
                raise
            except Exception:
                if sink.samples:
                    warn(f"this ended {so_far()}")
                raise
    if not sink.samples:
        raise NothingToSayError("there is nothing to say: the text has no letters and no digits")
    done = "played" if isinstance(sink, Player) else f"in {sink.name}"
    say(f"{speaker.seconds:.1f} s of speech by {voice.name}, {done}")


@contextmanager
def _opened_output(out: str | None, sample_rate: int) -> Iterator[Player | WavWriter]:
    with ExitStack() as stack:
        sink: Player | WavWriter | None = None
        if out is None:
            try:
                sink = stack.enter_context(open_player(sample_rate))
            except NoDeviceError as error:
                out = free_name()
                warn(f"{error}; the speech is written to {out}")
        yield sink or stack.enter_context(open_wav(out or free_name(), sample_rate))


class NothingToSayError(UserError):
    """A text has nothing that a voice can say."""
