"""A transcript on the disk: NAME.txt with the text, and NAME.json with what it was made from and every segment."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import Field

from quillgpt.console import warn
from quillgpt.data.staging import keep_aside
from quillgpt.errors import DataError
from quillgpt.files import sha256_of, write_json, write_text
from quillgpt.ownership import remove_own
from quillgpt.records import Record, read_record
from quillgpt.speech.recognition.filters import Fate, Judged
from quillgpt.speech.recognition.recordings import Recording
from quillgpt.speech.recognition.transcript import Segment
from quillgpt.text.sources.recording_names import RECORDING_SUFFIXES

FORMAT_VERSION: Literal[1] = 1
PAUSE_SECONDS = 2.0
"""A longer pause begins a paragraph."""

LONGEST_NAME_BYTES = 230
"""File systems take 255, of which a temporary file needs some."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(ge=0)]


class SourceRecord(Record):
    """A recording: its path within what was given, its place, hash and size, and seconds of sound."""

    name: str
    location: str
    sha256: Hash
    bytes: Annotated[int, Field(ge=0)]
    duration: Seconds


class MadeWith(Record):
    """What decides the segments; `language` is None if the engine detects it."""

    engine: str
    model: str
    language: str | None
    vad: bool
    compute_type: str | None


class SegmentRecord(Record):
    """A segment as a recognizer has heard it, and what became of it; see `filters.Fate`."""

    start: float
    end: float
    text: str
    confidence: float
    no_speech: float | None
    compression: float
    fate: Literal["keep", "mark", "doubt", "drop"]
    reason: str | None

    @classmethod
    def of(cls, judged: Judged) -> SegmentRecord:
        """Return a judged segment as it is recorded."""
        segment = judged.segment
        return cls(
            start=round(segment.start, 3),
            end=round(segment.end, 3),
            text=segment.text.strip(),
            confidence=round(segment.confidence, 4),
            no_speech=None if segment.no_speech is None else round(segment.no_speech, 4),
            compression=round(segment.compression, 3),
            fate=judged.fate.value,
            reason=judged.reason,
        )

    def judged(self) -> Judged:
        """Return the segment and what became of it."""
        segment = Segment(self.start, self.end, self.text, self.confidence, self.no_speech, self.compression)
        return Judged(segment, Fate(self.fate), self.reason)


class Transcript(Record):
    """The content of NAME.json."""

    version: Literal[1] = FORMAT_VERSION
    source: SourceRecord
    made_with: MadeWith
    language: str | None
    remarks: list[str]
    keep_doubtful: bool
    text_sha256: Hash | None
    segments: list[SegmentRecord]


@dataclass(frozen=True)
class Place:
    """Where the transcript of a recording is, or belongs.

    Attributes:
        stem: The path of both files without their endings.
        earlier: The transcript that is there; None if there is none.
    """

    stem: Path
    earlier: Transcript | None

    @property
    def text(self) -> Path:
        """NAME.txt."""
        return self.stem.with_name(f"{self.stem.name}.txt")

    @property
    def record(self) -> Path:
        """NAME.json."""
        return self.stem.with_name(f"{self.stem.name}.json")

    @property
    def is_complete(self) -> bool:
        """Whether both files are there; without words there is no text."""
        return self.earlier is not None and (self.earlier.text_sha256 is None or self.text.is_file())

    def write(self, transcript: Transcript) -> Transcript:
        """Write both files, and return what was written; a text that was changed by hand stays as NAME.txt.kept.

        Between the two writes no text is there, so that an interruption leaves no text that fits another record.
        """
        text = readable(segment.judged() for segment in transcript.segments if _is_text(segment, transcript))
        if self.text.exists():
            recorded = _read(self.stem)  # not `earlier`: another process may have written both files meanwhile
            if recorded is None or sha256_of(self.text) != recorded.text_sha256:
                keep_aside(self.text.parent, [self.text.name])
            else:
                remove_own(self.text)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest() if text else None
        written = transcript.model_copy(update={"text_sha256": digest})
        write_json(self.record, written.model_dump())
        if text:
            write_text(self.text, text)
        return written


class Places:
    """Finds where the transcripts of recordings belong in a folder, so that no two share a place.

    Args:
        folder: The folder of all transcripts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken = set[str]()

    def place(self, recording: Recording, sha256: str) -> Place:
        """Return the place of a recording's transcript: its earlier one, or the first name that is free.

        Raises:
            DataError: All names are taken by other files, or are too long.
        """
        if len(os.fsencode(recording.path.name)) > LONGEST_NAME_BYTES:
            raise DataError(f"{recording.path}: its name is too long for a transcript beside others; shorten it")
        stems = [stem for stem in _stems(recording) if str(stem).casefold() not in self._taken]
        location = str(recording.path.absolute())
        places = [Place(self._folder / stem, _read(self._folder / stem)) for stem in stems]
        own = [
            place for place in places if place.earlier is not None and place.earlier.source.location == location
        ] or [place for place in places if place.earlier is not None and place.earlier.source.sha256 == sha256]
        free = [place for place in places if not place.text.exists() and not place.record.exists()]
        for place in own + free:
            self._taken.add(str(place.stem.relative_to(self._folder)).casefold())
            return place
        raise DataError(
            f"{recording.path}: {self._folder / stems[0] if stems else self._folder}.txt and all similar names are "
            "taken by other files; choose another --out"
        )


def readable(segments: Iterable[Judged]) -> str:
    """Return the text of segments, with an empty line after each long pause; empty without words."""
    paragraphs, end = list[list[str]](), None
    for judged in segments:
        segment = judged.segment
        text = " ".join(segment.text.split())
        if not text:
            continue
        if end is None or segment.start - end >= PAUSE_SECONDS:
            paragraphs.append([])
        paragraphs[-1].append(text)
        end = segment.end
    return "\n\n".join(" ".join(paragraph) for paragraph in paragraphs) + "\n" * bool(paragraphs)


def _is_text(segment: SegmentRecord, transcript: Transcript) -> bool:
    return segment.judged().is_text(keep_doubtful=transcript.keep_doubtful)


def _stems(recording: Recording) -> Iterator[PurePath]:
    """Yield names for a transcript: talk, talk.mp3, FOLDER/talk.mp3, and so on with all folders around it."""
    name = recording.name
    if name.suffix.lower() in RECORDING_SUFFIXES:
        yield name.with_suffix("")
    yield name
    folders = recording.path.absolute().parts[1 : -len(name.parts)]
    for first in range(len(folders) - 1, -1, -1):
        yield PurePath(*folders[first:], name)


def _read(stem: Path) -> Transcript | None:
    path = stem.with_name(f"{stem.name}.json")
    if not path.exists():
        return None
    try:
        return read_record(path, Transcript, DataError, mend="if it belongs to a transcript, delete both files")
    except DataError as error:
        warn(f"not the record of a transcript: {error}")
        return None
