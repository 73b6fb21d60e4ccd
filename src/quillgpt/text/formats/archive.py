"""Archives and XML that others made: read in memory, within limits, without paths, entities or networks."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from html.entities import name2codepoint
from types import TracebackType
from xml.parsers import expat
from xml.parsers.expat import ExpatError

from quillgpt.text.formats.limits import (
    LEAST_SUSPECT_BYTES,
    MOST_DEPTH,
    MOST_ELEMENTS,
    MOST_ENTRIES,
    MOST_PART_BYTES,
    MOST_RATIO,
    MOST_UNPACKED_BYTES,
)
from quillgpt.text.formats.opened import Opened

ENCRYPTED = 1
CHUNK_BYTES = 1 << 16


class Archive:
    """The parts of a zip file; they are read by name, and nothing is unpacked to the disk.

    Raises:
        DataError: It is damaged, encrypted, or unpacks to more than documents do.
    """

    def __init__(self, file: Opened) -> None:
        self._file = file
        self._unpacked = 0
        try:
            self._zip = zipfile.ZipFile(file.path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise file.damaged(error) from error
        self._entries = {entry.filename: entry for entry in self._zip.infolist()}
        if len(self._entries) > MOST_ENTRIES:
            self._zip.close()
            raise file.refused(f"holds {len(self._entries):,} files, and {MOST_ENTRIES:,} are the most")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """The names of the parts."""
        return list(self._entries)

    def check(self) -> None:
        """Check that all parts together unpack to no more than a document.

        Raises:
            DataError: They unpack to more.
        """
        for entry in self._entries.values():
            self._check(entry, MOST_UNPACKED_BYTES)
        total = sum(entry.file_size for entry in self._entries.values())
        if total > MOST_UNPACKED_BYTES:
            raise self._file.refused(f"unpacks to {total:,} bytes, and {MOST_UNPACKED_BYTES:,} are the most")

    def read(self, name: str, most: int = MOST_PART_BYTES) -> bytes:
        """Return the bytes of a part, which has at most `most`.

        Raises:
            DataError: It is missing, damaged or encrypted, or unpacks to more than text does.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise self._file.damaged(f"it lacks {name[:80]}")
        self._check(entry, most)
        self._unpacked += entry.file_size
        if self._unpacked > MOST_UNPACKED_BYTES:
            raise self._file.refused(f"unpacks to more than {MOST_UNPACKED_BYTES:,} bytes of text, as no book does")
        try:
            return self._zip.read(entry)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
            raise self._file.damaged(error) from error
        except Exception as error:  # of bzip2 and LZMA, which documents do not use
            raise self._file.damaged(f"{type(error).__name__}: {error}") from error

    def _check(self, entry: zipfile.ZipInfo, most: int) -> None:
        name = entry.filename[:80]
        if entry.flag_bits & ENCRYPTED:
            raise self._file.refused("is encrypted, and can be read only with its password")
        if entry.file_size > most:
            raise self._file.refused(f"holds {name} with {entry.file_size:,} bytes, and {most:,} are the most")
        if entry.file_size > max(LEAST_SUSPECT_BYTES, MOST_RATIO * entry.compress_size):
            raise self._file.refused(
                f"holds {name}, which unpacks {entry.compress_size:,} to {entry.file_size:,} bytes, as no text does"
            )


def parse_xml(
    file: Opened,
    content: bytes,
    *,
    start: Callable[[str, dict[str, str]], object],
    end: Callable[[str], object] = lambda _: None,
    text: Callable[[str], object] = lambda _: None,
) -> None:
    """Read XML, and call a function for each start, end and text; names are without their namespace.

    Names of characters such as `&nbsp;` are known. A document type is passed over, and never fetched.

    Args:
        file: The file that it is part of.
        content: The XML.
        start: Is called with the name and the attributes of an element.
        end: Is called with its name.
        text: Is called with text.

    Raises:
        DataError: It defines entities, has too many elements, or too deep ones.
        ExpatError: It is not well-formed.
    """
    depth = elements = 0
    parser = expat.ParserCreate()

    def start_element(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > MOST_DEPTH or elements > MOST_ELEMENTS:
            raise file.refused(
                f"has more than {MOST_DEPTH:,} elements within each other, or more than {MOST_ELEMENTS:,} in all"
            )
        start(_local(name), {_local(key): value for key, value in attributes.items()})

    def end_element(name: str) -> None:
        nonlocal depth
        depth -= 1
        end(_local(name))

    def refuse(*_: object) -> None:
        raise file.refused("defines entities of its own, as files do that unpack to more than any memory holds")

    def skipped(name: str, is_parameter: bool) -> None:
        if not is_parameter:
            text(chr(name2codepoint[name]) if name in name2codepoint else f"&{name};")

    parser.buffer_text = True
    parser.UseForeignDTD(True)
    parser.StartElementHandler, parser.EndElementHandler = start_element, end_element
    parser.CharacterDataHandler, parser.SkippedEntityHandler = text, skipped
    parser.EntityDeclHandler = refuse
    try:
        for place in range(0, len(content), CHUNK_BYTES):
            parser.Parse(content[place : place + CHUNK_BYTES], False)
        parser.Parse(b"", True)
    except (LookupError, ValueError, TypeError) as error:  # an encoding that there is not
        raise file.damaged(error) from error


def parse_part(file: Opened, archive: Archive, name: str, start: Callable[[str, dict[str, str]], object]) -> None:
    """Read the elements of a part that has to be well-formed XML.

    Raises:
        DataError: It is not, or is not made to be read.
    """
    try:
        parse_xml(file, archive.read(name), start=start)
    except ExpatError as error:
        raise file.damaged(f"{name[:80]}: {error}") from error


def _local(name: str) -> str:
    return name.rpartition(":")[2]
