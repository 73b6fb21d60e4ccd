"""Inspects all files of a text before any is used: whether they can be read, and what is unusual about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from quillgpt.console import progress, say, warn
from quillgpt.data.dataset_manifest import SkippedRecord, SourceRecord
from quillgpt.errors import DataError, UserError, join_names
from quillgpt.text.encodings.formats import looks_like
from quillgpt.text.encodings.reading import EmptyFileError, Note, Reading
from quillgpt.text.formats.all_formats import FORMATS
from quillgpt.text.formats.guarded import end_reading
from quillgpt.text.formats.opened import Tally
from quillgpt.text.sources.documents import FileRules, Source
from quillgpt.text.sources.gutenberg import has_licence

MOST_NAMES = 40
"""Files that a message names; the rest is counted."""

FEW_NAMES = 4
BEGINNING_CHARACTERS = 8000


@dataclass
class Inspection:
    """The result of `inspect_files`.

    Attributes:
        sources: The sources that can be read.
        records: Their records for dataset.json.
        skipped: The records of the others.
    """

    sources: list[Source] = field(default_factory=list)
    records: list[SourceRecord] = field(default_factory=list)
    skipped: list[SkippedRecord] = field(default_factory=list)


def inspect_files(sources: Sequence[Source], rules: FileRules) -> Inspection:
    """Inspect all files, report what is unusual about them, and leave out empty ones if there are several files.

    Args:
        sources: The files.
        rules: How to read them, and whether to leave out those that cannot be read.

    Raises:
        DataError: Some files cannot be read; the message names all of them.
    """
    inspection = Inspection()
    notes: list[tuple[str, Note]] = []
    unreadable: list[tuple[str, str]] = []
    empty: list[str] = []
    tallies: list[tuple[Source, Tally]] = []
    with progress("Looking at files", len(sources)) as advance:
        for source in sources:
            try:
                reading = source.look_at(rules.encoding.encoding_of(source.location))
                tally = source.tally(reading.encoding)
                record = _record(source, reading, tally)
            except (UserError, OSError) as error:
                reason = _reason(source, error)
                if len(sources) == 1:
                    raise DataError(f"{source.name}{reason}") from error
                if isinstance(error, EmptyFileError):
                    empty.append(source.name)
                else:
                    unreadable.append((source.name, reason))
                inspection.skipped.append(
                    SkippedRecord(
                        location=source.location,
                        sha256=source.sha256_if_readable(),
                        is_empty=isinstance(error, EmptyFileError),
                    )
                )
            else:
                inspection.sources.append(source)
                tallies += [] if tally is None else [(source, tally)]
                inspection.records.append(record)
                notes += [(source.name, note) for note in (*reading.notes, *_content_notes(source, reading))]
            advance()
    end_reading()
    _refuse(unreadable, len(sources), skip=rules.skip_unreadable)
    if empty:
        warn(f"left out, since they are empty: {join_names(empty, MOST_NAMES)}")
    if not inspection.sources:
        raise DataError(f"none of the {len(sources):,} files has any text that can be read; give others")
    _tell(notes)
    _list(tallies)
    return inspection


def _record(source: Source, reading: Reading, tally: Tally | None) -> SourceRecord:
    size = source.path.stat().st_size
    record = SourceRecord(location=source.location, sha256=source.sha256, bytes=size, encoding=reading.encoding)
    if source.conversion is None or tally is None:
        return record
    found = {"read": +tally.read, "dropped": +tally.dropped}
    return record.model_copy(update={"format": source.conversion.format, "column": source.conversion.column, **found})


def _list(tallies: Sequence[tuple[Source, Tally]]) -> None:
    """Say of each file that is no plain text what was read and left out; of many files, the sums of the rest."""
    if not tallies:
        return
    say("Read, and left out, file by file:")
    for source, tally in tallies[:MOST_NAMES]:
        assert source.conversion is not None
        remarks = "".join(f"; {remark}" for remark in tally.remarks)
        say(f"  {source.name} ({FORMATS[source.conversion.format].title}): {_counted(tally)}{remarks}")
    rest = Tally()
    for _, tally in tallies[MOST_NAMES:]:
        rest.read.update(tally.read)
        rest.dropped.update(tally.dropped)
    if len(tallies) > MOST_NAMES:
        say(f"  {len(tallies) - MOST_NAMES:,} more files: {_counted(rest)}; dataset.json has the numbers of each")


def _counted(tally: Tally) -> str:
    read, dropped = (
        ", ".join(f"{what} {count:,}" for what, count in counts.items() if count)
        for counts in (tally.read, tally.dropped)
    )
    return read + (f"; left out: {dropped}" if dropped else "")


def _reason(source: Source, error: UserError | OSError) -> str:
    if isinstance(error, OSError):
        return f" cannot be opened: {error.strerror or error}"
    said = str(error)
    return said.removeprefix(source.name) if said.startswith(source.name) else f": {said}"


def _refuse(unreadable: Sequence[tuple[str, str]], files: int, *, skip: bool) -> None:
    by_reason: dict[str, list[str]] = {}
    for name, reason in unreadable:
        general = reason.replace(name, "FILE").replace(PurePath(name).name, "FILE").strip(" ,")
        by_reason.setdefault(general, []).append(name)
    kinds = "; ".join(f"{join_names(names, MOST_NAMES)}: {reason}" for reason, names in by_reason.items())
    if not unreadable:
        return
    if not skip:
        raise DataError(
            f"{len(unreadable):,} of {files:,} files cannot be read. {kinds}. To leave them out: --skip_unreadable"
        )
    warn(f"left out, as skip_unreadable says: {len(unreadable):,} of {files:,} files. {kinds}")


def _content_notes(source: Source, reading: Reading) -> Iterable[Note]:
    if source.holds_many:
        return
    beginning = str(next(source.pieces(reading.encoding, BEGINNING_CHARACTERS)))
    if has_licence(beginning[:4000]):
        yield Note(
            "licence",
            "begins with Project Gutenberg's licence, which the model will learn; delete header and footer, or let "
            "Quill fetch the book without them: quill prepare gutenberg:NUMBER",
        )
    hint = looks_like(beginning, source.name) if source.conversion is None else None
    if hint is not None:
        yield Note(
            hint.what,
            f"looks like {hint.what}, and the model will learn to write its markup too; {hint.advice}",
        )


def _tell(notes: Sequence[tuple[str, Note]]) -> None:
    """Report each kind of note once, with the message for the first file and the names of a few others."""
    by_kind: dict[str, list[tuple[str, Note]]] = {}
    for name, note in notes:
        by_kind.setdefault(note.kind, []).append((name, note))
    for kind, several in by_kind.items():
        name, note = several[0]
        others = [other for other, _ in several[1:]]
        more = f". The same holds for {len(others):,} more: {join_names(others, FEW_NAMES)}" if others else ""
        (say if kind.startswith("read as") else warn)(f"{name} {note.words}{more}")
