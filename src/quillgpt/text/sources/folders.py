"""The files that words of the user stand for: of folders and patterns, and from pipes."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from quillgpt.config.paths import STANDARD_INPUT, expand, is_standard_input, is_stream
from quillgpt.console import progress, say, warn
from quillgpt.errors import DataError, join_names
from quillgpt.text.formats.all_formats import FORMATS, is_of_a_folder
from quillgpt.text.formats.opened import PLAIN, Wishes
from quillgpt.text.formats.tables import has_clear_column
from quillgpt.text.sources.documents import Source, conversion_of
from quillgpt.text.sources.recording_names import RECORDING_SUFFIXES

TEXT_SUFFIXES = (".txt", ".md")
FEW_NAMES = 5

_LINKED_FOLDERS = "linked folders, which --follow_links reads"
_LINKS_OUT = "links to files elsewhere, which --follow_links reads"
_SPECIAL = {
    stat.S_IFIFO: "named pipes",
    stat.S_IFSOCK: "sockets",
    stat.S_IFCHR: "devices",
    stat.S_IFBLK: "devices",
}


@dataclass
class _Listing:
    """The files of a folder or a pattern.

    Attributes:
        files: Paths of the files.
        left_out: Names of what is not read, by the reason.
    """

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, reason: str, name: str) -> None:
        self.left_out.setdefault(reason, []).append(name)

    def reasons(self) -> str:
        """Return every reason with the number of names and the first few of them."""
        return "; ".join(
            f"{reason}: {len(names):,} ({', '.join(sorted(names)[:FEW_NAMES])}{', ...' * (len(names) > FEW_NAMES)})"
            for reason, names in self.left_out.items()
        )


@dataclass(frozen=True)
class FileKind:
    """The files of a folder that are wanted.

    Attributes:
        suffixes: How their names end.
        plural: What they are called.
        none: What they are called after "has no".
        advice: What to do if there are none.
        other_advice: What to do instead if FOLDER has files with one of these endings, and none that is wanted.
        also: Whether another file is wanted, too.
    """

    suffixes: tuple[str, ...]
    plural: str
    none: str
    advice: str
    other_advice: tuple[tuple[str, ...], str] = ((), "")
    also: Callable[[Path], bool] = lambda _: False

    def has(self, path: Path) -> bool:
        """Return whether a file is of this kind."""
        return path.suffix.lower() in self.suffixes or self.also(path)


TEXTS = FileKind(
    TEXT_SUFFIXES,
    "texts and documents",
    "texts or documents (.txt, .md, .epub, .html, .docx, .pdf, .mbox, .eml, .csv, .tsv, .jsonl, .srt, .vtt, chats)",
    "Give such files",
    (RECORDING_SUFFIXES, "To turn the speech in it into text: quill transcribe FOLDER --out TEXTS"),
)


def files_of_folder(
    word: str, folder: Path, *, follow_links: bool, wishes: Wishes = PLAIN, column: str | None = None
) -> list[Source]:
    """Return the texts and documents of a folder and of the folders in it, and say what else is there.

    Args:
        word: The folder, as the user names it.
        folder: The folder.
        follow_links: Follow links that lead out of it, too.
        wishes: What is wanted of files that are no plain text.
        column: The column that holds the text of tables.

    Raises:
        DataError: It cannot be opened, or has no texts.
    """
    kind = replace(TEXTS, also=lambda path: is_of_a_folder(path, wishes.read_as))
    paths = paths_of_folder(word, folder, kind, follow_links=follow_links)
    sources = [_source(path, wishes, column) for path in paths]
    unclear = [source for source in sources if _is_unclear(source)]
    if unclear:
        names = join_names([source.name for source in unclear], FEW_NAMES)
        warn(
            f"of the folder {word}, tables are left out of which several columns could be meant: {names}; to read one: "
            f"{unclear[0].name}:COLUMN"
        )
        if len(unclear) == len(sources):
            raise DataError(
                f"the folder {word} has only tables ({names}); name the column that holds the text: {word}:COLUMN"
            )
    return [source for source in sources if source not in unclear]


def _is_unclear(source: Source) -> bool:
    how = source.conversion
    is_table = how is not None and how.column is None and FORMATS[how.format].has_columns
    return is_table and how is not None and not has_clear_column(source.path, how.format)


def _source(path: Path, wishes: Wishes, column: str | None) -> Source:
    """Return a file of a folder or a pattern; only tables have the column."""
    conversion = conversion_of(path, wishes)
    if conversion is not None and FORMATS[conversion.format].has_columns:
        conversion = replace(conversion, column=column)
    return Source.from_file(path, conversion)


def paths_of_folder(word: str, folder: Path, kind: FileKind, *, follow_links: bool) -> list[Path]:
    """Return the files of a kind in a folder and in the folders in it, and say what else is there.

    Raises:
        DataError: It cannot be opened, or has none.
    """
    listing = _walk(folder, follow_links)
    wanted = [file for file in listing.files if kind.has(file)]
    found = {*wanted}
    others = Counter(file.suffix.lower() or file.name for file in listing.files if file not in found)
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(8))
    reasons = listing.reasons()
    if not wanted:
        others_there = " and ".join(filter(None, [kinds, reasons]))
        content = f"it has {others_there}" if others_there else "it is empty"
        suffixes, instead = kind.other_advice
        advice = instead.replace("FOLDER", shlex.quote(word)) if others.keys() & {*suffixes} else kind.advice
        raise DataError(f"the folder {word} has no {kind.none}; {content}. {advice}")
    if kinds:
        say(f"Of the folder {word}, {kind.plural} are read ({len(wanted)}); skipped: {kinds}")
    if reasons:
        warn(f"of the folder {word}, these are left out: {reasons}")
    return wanted


def files_of_pattern(word: str, wishes: Wishes = PLAIN, column: str | None = None) -> list[Source]:
    """Return the texts that a pattern such as `books/*.txt` matches; errors are those of `paths_of_pattern`.

    A pattern such as `lectures/*` also matches what `quill transcribe` wrote beside each text; that is left out.
    """
    paths = paths_of_pattern(word)
    texts = {*paths}
    records = {path for path in paths if path.with_suffix(".txt") in texts and _is_transcript_record(path)}
    if records:
        say(f"Of what {word} matches, the .json beside transcripts is left out: {len(records):,} files")
    return [_source(path, wishes, column) for path in paths if path not in records]


def _is_transcript_record(path: Path) -> bool:
    """Return whether a file is what `quill transcribe` writes beside a transcript."""
    if path.suffix != ".json":
        return False
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"source", "made_with", "segments", "text_sha256"} <= content.keys()


def paths_of_pattern(word: str) -> list[Path]:
    """Return the files that a pattern matches.

    Raises:
        DataError: There are none.
    """
    listing = _Listing()
    for name in sorted(glob.glob(str(expand(word)), recursive=True)):  # noqa: PTH207 - it leaves hidden files out
        path = Path(name)
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
        except OSError:
            listing.leave_out("links that lead nowhere", name)
            continue
        if kind == stat.S_IFREG:
            listing.files.append(path)
        elif kind != stat.S_IFDIR:
            listing.leave_out(_SPECIAL.get(kind, "things that are no files"), name)
    reasons = listing.reasons()
    if not listing.files:
        raise DataError(f"no file matches {word}{'; it matches ' * bool(reasons)}{reasons}; check folder and pattern")
    if reasons:
        warn(f"of what {word} matches, these are left out: {reasons}")
    return listing.files


def _walk(root: Path, follow_links: bool) -> _Listing:
    """Return all files of a folder that are not hidden; links are followed last, and no folder is entered twice."""
    listing = _Listing()
    inside = root.resolve()
    folders, links = [root], list[Path]()
    entered: set[tuple[int, int]] = set()
    with progress(f"Looking through {root}", None) as advance:
        while folders or links:
            folder = folders.pop() if folders else links.pop()
            name = str(folder.relative_to(root))
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in entered:
                    listing.leave_out("links to folders that are read already", name)
                    continue
                entered.add((status.st_dev, status.st_ino))
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if folder == root:
                    raise DataError(f"the folder {root} cannot be opened: {error.strerror}") from error
                listing.leave_out(f"folders that cannot be opened ({error.strerror})", name)
                continue
            for entry in entries:
                advance()
                if not entry.name.startswith("."):
                    _take(entry, folder / entry.name, root, inside, follow_links, listing, folders, links)
    listing.files.sort()
    return listing


def _take(
    entry: os.DirEntry[str],
    path: Path,
    root: Path,
    inside: Path,
    follow_links: bool,
    listing: _Listing,
    folders: list[Path],
    links: list[Path],
) -> None:
    name = str(path.relative_to(root))
    is_link = entry.is_symlink()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        listing.leave_out("files whose names are not UTF-8, so that nothing could record them", ascii(name))
        return
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        listing.leave_out("links that lead nowhere", name)
        return
    except OSError as error:
        circle = "links in a circle" if is_link else f"files that cannot be looked at ({error.strerror})"
        listing.leave_out(circle, name)
        return
    if kind == stat.S_IFDIR:
        if not is_link:
            folders.append(path)
        elif follow_links:
            links.append(path)
        else:
            listing.leave_out(_LINKED_FOLDERS, name)
    elif kind != stat.S_IFREG:
        listing.leave_out(_SPECIAL.get(kind, "things that are no files"), name)
    elif is_link and not follow_links and not path.resolve().is_relative_to(inside):
        listing.leave_out(_LINKS_OUT, name)
    else:
        listing.files.append(path)


def source_of_stream(word: str, spool: Path, wishes: Wishes = PLAIN) -> Source | None:
    """Return standard input or a pipe, copied to a file; None for any other word.

    Args:
        word: What the user gave.
        spool: A folder for the copy.
        wishes: What is wanted of what is no plain text.

    Raises:
        DataError: It is a device or a socket, or standard input is closed.
    """
    path = expand(word)
    if is_standard_input(word):
        if sys.stdin is None:
            raise DataError("standard input is closed; give a file, or something to read: quill prepare - < FILE")
        if sys.stdin.isatty():
            say("Reading what you type; Ctrl-D on an empty line ends it")
        kept = _spooled(sys.stdin.buffer, spool)
        return Source("standard input", STANDARD_INPUT, kept).converted_by(conversion_of(kept, wishes))
    if is_stream(path):
        say(f"Reading {word} until it is closed")
        with path.open("rb") as pipe:
            kept = _spooled(pipe, spool)
        is_named = not str(path).startswith(("/dev/", "/proc/"))
        location = str(path.resolve()) if is_named else "pipe"
        return Source(word, location, kept).converted_by(conversion_of(kept, wishes))
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except (OSError, ValueError):
        return None
    if kind in _SPECIAL:
        raise DataError(f"{word} is a {_SPECIAL[kind][:-1]}, not a text; give a file, a folder or a pipe")
    return None


def _spooled(stream: BinaryIO, spool: Path) -> Path:
    descriptor, name = tempfile.mkstemp(dir=spool, suffix=".txt")
    with os.fdopen(descriptor, "wb") as file:
        shutil.copyfileobj(stream, file)
    return Path(name)
