"""The recordings that words of the user stand for, and where their transcripts belong."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from quillgpt.config.paths import exists, expand
from quillgpt.errors import DataError, UserError, did_you_mean
from quillgpt.files import nearest_existing
from quillgpt.text.sources.folders import FileKind, paths_of_folder, paths_of_pattern
from quillgpt.text.sources.recording_names import RECORDING_SUFFIXES

RECORDINGS = FileKind(
    RECORDING_SUFFIXES, "recordings", "recordings", "Give audio files: wav, flac, mp3, ogg, m4a and so on"
)


@dataclass(frozen=True)
class Recording:
    """A recording to transcribe.

    Attributes:
        path: The file.
        name: Its path within the folder or pattern that the user gave.
    """

    path: Path
    name: PurePath


def find_recordings(words: list[str]) -> tuple[list[Recording], list[str]]:
    """Return the recordings that the words of the user stand for, each once, and what is wrong with other words."""
    recordings, wrong = dict[Path, Recording](), list[str]()
    for word in words:
        try:
            for recording in _recordings(word):
                if _is_utf8(recording.path):
                    recordings.setdefault(recording.path.resolve(), recording)
                else:
                    wrong.append(f"{str(recording.path)!a} is no name in UTF-8, and cannot be recorded; rename it")
        except UserError as error:
            wrong.append(str(error))
    return list(recordings.values()), wrong


def _recordings(word: str) -> Iterator[Recording]:
    path = expand(word)
    if exists(path):
        if path.is_dir():
            for file in paths_of_folder(word, path, RECORDINGS, follow_links=False):
                yield Recording(file, file.relative_to(path))
        elif path.is_file():
            yield Recording(path, PurePath(path.name))
        else:
            raise DataError(f"{path} is not a file; give recordings, or folders of them")
    elif (locked := _locked(path)) is not None:
        raise DataError(f"{word} cannot be read: the folder {locked} may not be opened")
    elif glob.has_magic(word):
        fixed = _fixed_part(path)
        try:
            files = paths_of_pattern(word)
        except DataError as error:
            raise DataError(f"{error}{_instead(fixed)}") from None
        for file in files:
            yield Recording(file, file.relative_to(fixed))
    elif "://" in word:
        raise DataError(f"{word} is an address; download the recording, and give the file")
    else:
        raise DataError(f"{word} does not exist{_meant(path)}")


def _locked(path: Path) -> Path | None:
    """Return the nearest folder around a path that exists, if it may not be opened."""
    folder = nearest_existing(path.parent)
    return None if os.access(folder, os.X_OK) else folder


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that a pattern begins with."""
    parts = pattern.parts
    magic = next(position for position, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:magic])


def _instead(folder: Path) -> str:
    """Return what there is where a pattern has looked, as the end of a message."""
    if not exists(folder):
        return f"; the folder {folder} does not exist{_meant(folder)}"
    endings = Counter(suffix for suffix in map(_suffix, _names(folder)) if suffix in RECORDING_SUFFIXES)
    there = ", ".join(f"{count} {suffix}" for suffix, count in endings.most_common(5))
    return f"; {folder} has {there}" if there else ""


def _meant(path: Path) -> str:
    """Return the name beside a missing path that was probably meant, as the end of a message."""
    if not exists(path.parent):
        return f"; neither does the folder {path.parent}"
    return did_you_mean(path.name, _names(path.parent))


def _suffix(name: str) -> str:
    return PurePath(name).suffix.lower()


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
