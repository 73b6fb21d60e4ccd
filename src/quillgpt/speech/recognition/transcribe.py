"""Recordings to text: what is transcribed already is passed over, and what fails does not stop the others."""

from __future__ import annotations

import errno
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from quillgpt.config.schema import TranscribeSettings
from quillgpt.console import clock_time, is_screen, outcome, progress, say, stderr, warn
from quillgpt.errors import DataError, UserError
from quillgpt.files import make_folder, sha256_of
from quillgpt.speech.recognition.audio import decoder, duration_of, open_recording, reason, state_of
from quillgpt.speech.recognition.engines import recognizer
from quillgpt.speech.recognition.filters import judge
from quillgpt.speech.recognition.recordings import Recording, find_recordings
from quillgpt.speech.recognition.transcript import Recognizer, Segment
from quillgpt.speech.recognition.transcript_file import (
    MadeWith,
    Place,
    Places,
    SegmentRecord,
    SourceRecord,
    Transcript,
)
from quillgpt.stopping import activity

LEAST_ROOM = 1 << 16
SECONDS_BETWEEN_LINES = 60
"""How often a line tells the progress where no bar can be shown."""


@dataclass
class Report:
    """What became of the recordings.

    Attributes:
        transcripts: The transcripts that were made now.
        before: Number of recordings that were transcribed before.
        failed: What is wrong with each of the others.
        seconds: Sound that was transcribed now.
        wall_seconds: How long that took.
        left_out: Segments that are not in the texts, by the reason.
        marked: Number of other segments that are worth a look, by the reason.
        languages: Number of transcripts in each language.
    """

    transcripts: list[Path] = field(default_factory=list)
    before: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    wall_seconds: float = 0.0
    left_out: dict[str, list[SegmentRecord]] = field(default_factory=dict)
    marked: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def fail(self, message: str) -> None:
        """Say why a recording has no transcript."""
        self.failed.append(message)
        outcome(f"failed: {message}", style="red")


def transcribe(words: list[str], folder: Path, settings: TranscribeSettings, *, overwrite: bool = False) -> Report:
    """Transcribe recordings, each to NAME.txt and NAME.json in a folder.

    Args:
        words: Files, folders and patterns.
        folder: Where the transcripts go, by the path that each recording has in what was given.
        settings: The recognizer, and what becomes of doubtful segments.
        overwrite: Transcribe again what has been transcribed before.

    Raises:
        UserError: Nothing can be transcribed: a package is missing, nothing was found, or the folder cannot be written.
    """
    decoder("whisper" if settings.engine == "whisper" else "voice")
    recordings, wrong = find_recordings(words)
    if not recordings:
        raise DataError("; ".join(wrong))
    make_folder(folder, "--out")
    _check_room(folder)
    session = _Session(settings, folder, recognizer(settings), overwrite=overwrite)
    for message in wrong:
        session.report.fail(message)
    with activity(session.words_on_interruption):
        session.transcribe(recordings)
    return session.report


class _Session:
    def __init__(self, settings: TranscribeSettings, folder: Path, engine: Recognizer, *, overwrite: bool) -> None:
        self.report = Report()
        self._settings = settings
        self._folder = folder
        self._places = Places(folder)
        self._recognizer = engine
        self._overwrite = overwrite
        name, _, model = engine.name.partition(" ")
        self._made_with = MadeWith(
            engine=name, model=model, language=settings.language, vad=settings.vad, compute_type=settings.compute_type
        )
        self._count = 0

    def words_on_interruption(self) -> str:
        done = len(self.report.transcripts) + self.report.before
        return f"with {done} of {self._count} transcripts complete; the same command goes on with the others"

    def transcribe(self, recordings: list[Recording]) -> None:
        self._count = len(recordings)
        waiting = list[_Job]()
        with progress("Looking at recordings", len(recordings)) as advance:
            for recording in recordings:
                job = self._look_at(recording)
                if job is not None:
                    waiting.append(job)
                advance()
        started = time.monotonic()
        total = sum(job.duration or 0.0 for job in waiting)
        with progress("Transcribing", total or None, as_time=True) as advance:
            clock = _Clock(total, advance)
            for position, job in enumerate(waiting, start=1):
                try:
                    _check_room(self._folder)
                except UserError as error:
                    for other in waiting[position - 1 :]:
                        self.report.failed.append(str(other.recording.path))
                    rest = len(waiting) - position + 1
                    outcome(f"failed: {error}; not transcribed: {rest:,}; the same command goes on", style="red")
                    break
                self._attempt(job, clock)
        self.report.wall_seconds = time.monotonic() - started

    def _look_at(self, recording: Recording) -> _Job | None:
        """Return what is to do for a recording; None if nothing is, or nothing can be."""
        try:
            state = state_of(recording.path)
            sha256 = sha256_of(recording.path)
            job = _Job(recording, state, sha256, self._places.place(recording, sha256))
        except OSError as error:
            self.report.fail(f"{recording.path} cannot be read: {reason(error)}")
            return None
        except UserError as error:
            self.report.fail(str(error))
            return None
        earlier = job.place.earlier
        if (
            self._overwrite
            or earlier is None
            or not job.place.is_complete
            or earlier.source.sha256 != sha256
            or not self._is_as_wanted(earlier)
        ):
            job.duration = duration_of(recording.path)
            return job
        if earlier.keep_doubtful != self._settings.keep_doubtful:
            changed = earlier.model_copy(update={"keep_doubtful": self._settings.keep_doubtful})
            written = self._write(changed, job)
            if written is None:
                return None
            earlier = written
        if earlier.text_sha256 is None:
            self.report.fail(f"{recording.path} {_silence(earlier)} (as was found before)")
        else:
            self.report.before += 1
        return None

    def _is_as_wanted(self, earlier: Transcript) -> bool:
        """Whether an earlier transcript need not be made again.

        If the choice of the engine is open, one of whisper stays where only pocketsphinx can be had.
        """
        is_better = self._settings.engine == "auto" and (earlier.made_with.engine, self._made_with.engine) == (
            "whisper",
            "pocketsphinx",
        )
        return is_better or earlier.made_with == self._made_with

    def _attempt(self, job: _Job, clock: _Clock) -> None:
        path = job.recording.path
        before = clock.heard
        written = None
        try:
            written = self._write(self._transcript(job, clock), job)
        except OSError as error:
            self.report.fail(f"{path} cannot be read: {reason(error)}")
        except UserError as error:
            self.report.fail(str(error))
        clock.finish(before, job.duration if written is None else written.source.duration)
        if written is not None:
            self._count_in(written, job, clock)

    def _write(self, transcript: Transcript, job: _Job) -> Transcript | None:
        """Return the transcript as it was written; None if it could not be."""
        try:
            return job.place.write(transcript)
        except OSError as error:
            self.report.fail(f"{job.recording.path}: {job.place.text} cannot be written: {reason(error)}")
            return None

    def _transcript(self, job: _Job, clock: _Clock) -> Transcript:
        path = job.recording.path
        segments = list[Segment]()
        self._recognizer.begin()
        with open_recording(path) as recording:
            for remark in recording.remarks:
                say(f"{path} {remark}")
            said = len(recording.remarks)
            for start, samples in recording.stretches():
                for segment in self._recognizer.segments(samples):
                    segments.append(segment.shifted(start))
                    clock.at(path, segment.end + start)
                clock.at(path, recording.seconds)
            for remark in recording.remarks[said:]:
                warn(f"{path} {remark}")
        try:
            state = state_of(path)
        except OSError:
            state = None
        if state is None and not path.exists():
            raise DataError(f"{path} has vanished while it was read; nothing is written for it")
        if state != job.state:
            raise DataError(f"{path} has changed while it was read; run the same command again")
        return Transcript(
            source=SourceRecord(
                name=job.recording.name.as_posix(),
                location=str(path.absolute()),
                sha256=job.sha256,
                bytes=job.state[0],
                duration=round(recording.seconds, 3),
            ),
            made_with=self._made_with,
            language=self._recognizer.language,
            remarks=[*recording.remarks, *(["is digital silence"] if recording.loudest == 0 else [])],
            keep_doubtful=self._settings.keep_doubtful,
            text_sha256=None,
            segments=[SegmentRecord.of(judged) for judged in judge(segments, duration=recording.seconds)],
        )

    def _count_in(self, transcript: Transcript, job: _Job, clock: _Clock) -> None:
        self.report.seconds += transcript.source.duration
        for segment in transcript.segments:
            if segment.reason is None:
                continue
            if segment.judged().is_text(keep_doubtful=transcript.keep_doubtful):
                self.report.marked[segment.reason] += 1
            else:
                self.report.left_out.setdefault(segment.reason, []).append(segment)
        if transcript.text_sha256 is None:
            self.report.fail(f"{job.recording.path} {_silence(transcript)}")
        else:
            self.report.languages[transcript.language or "unclear"] += 1
            self.report.transcripts.append(job.place.text)
            clock.tell(f"{job.recording.path}: done")


@dataclass
class _Job:
    recording: Recording
    state: tuple[int, int]
    sha256: str
    place: Place
    duration: float | None = None


class _Clock:
    """Tells the progress in seconds of sound, as a bar or, where none can be shown, line by line."""

    def __init__(self, total: float, advance: Callable[[float], None]) -> None:
        self.heard = 0.0
        self._of_this = 0.0
        self._total = total
        self._advance = advance
        self._started = self._told = time.monotonic()

    def at(self, path: Path, seconds: float) -> None:
        """Note how much of the present recording is done."""
        step = max(0.0, seconds - self._of_this)
        self._of_this += step
        self.heard += step
        self._advance(step)
        if time.monotonic() - self._told > SECONDS_BETWEEN_LINES:
            self.tell(f"{path}: {clock_time(self._of_this)}")

    def finish(self, before: float, duration: float | None) -> None:
        """Note that a recording is done, or has failed: then its rest will not come."""
        rest = max(0.0, (duration or 0.0) - (self.heard - before))
        self.heard += rest
        self._advance(rest)
        self._of_this = 0.0

    def tell(self, what: str) -> None:
        """Say what has happened, and how much is to come, where no bar can be shown."""
        self._told = time.monotonic()
        if is_screen(stderr):
            return
        rest = max(0.0, self._total - self.heard)
        left = rest * (self._told - self._started) / self.heard if self.heard else 0.0
        say(f"{what}; {clock_time(rest)} of sound to come" + (f", about {clock_time(left)} left" if rest else ""))


def _silence(transcript: Transcript) -> str:
    duration = clock_time(transcript.source.duration)
    if "is digital silence" in transcript.remarks:
        return f"is digital silence, {duration} of it: no text is written"
    if transcript.segments:
        return f"has no text: all {len(transcript.segments):,} segments are left out, see the .json"
    return f"has no speech in its {duration}: no text is written"


def _check_room(folder: Path) -> None:
    """Check that a small file can be written to a folder.

    Raises:
        UserError: It cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            if (file.write(bytes(LEAST_ROOM)) or 0) < LEAST_ROOM:
                raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise UserError(f"nothing can be written to {folder}: {reason(error)}") from None
