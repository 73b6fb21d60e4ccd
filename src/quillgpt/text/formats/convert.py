"""Takes the documents out of a file, and keeps them as a text in a temporary folder while Quill runs."""

from __future__ import annotations

import atexit
import functools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quillgpt.errors import DataError
from quillgpt.text.encodings.detection import Reading, look_at
from quillgpt.text.encodings.reading import EmptyFileError
from quillgpt.text.formats.all_formats import FORMATS
from quillgpt.text.formats.guarded import take_out_guarded
from quillgpt.text.formats.opened import PLAIN, Opened, Tally, Wishes
from quillgpt.text.formats.take_out import take_out
from quillgpt.text.sources.compressed import COMPRESSED


@dataclass(frozen=True)
class Conversion:
    """How documents are taken out of a file.

    Attributes:
        format: The name of its format.
        column: The column that holds the text of a table; None takes the only one that can be meant.
        wishes: What the user wants.
    """

    format: str
    column: str | None = None
    wishes: Wishes = PLAIN


@dataclass(frozen=True)
class Converted:
    """The documents of a file.

    Attributes:
        path: A file in UTF-8 that has them, each with a `SEPARATOR` behind it.
        reading: The encoding of the original, and what is unusual in it.
        tally: What was found.
    """

    path: Path
    reading: Reading
    tally: Tally


def convert(path: Path, name: str, conversion: Conversion, encoding: str | None) -> Converted:
    """Take the documents out of a file.

    Args:
        path: The file.
        name: Its name in messages.
        conversion: How.
        encoding: Its encoding, if it is known or the user named it.

    Raises:
        DataError: It is damaged, not made to be read, or has no text.
        UserError: An optional package is missing.
    """
    format = FORMATS[conversion.format]
    if path.stat().st_size == 0:
        raise EmptyFileError(f"{name} is empty; give a file with some text in it")
    if conversion.column is not None and not format.has_columns:
        raise DataError(f"{name} is {format.title}, which has no columns; give it without :{conversion.column}")
    reading = Reading("utf-8")
    is_compressed = path.suffix.lower() in COMPRESSED
    if format.is_text and not is_compressed:
        reading = look_at(path, name=name, encoding=encoding)
    opened = Opened(
        path,
        name,
        conversion.format,
        format.title,
        reading.encoding if format.is_text and not is_compressed else encoding,
        conversion.column,
        conversion.wishes,
    )
    descriptor, kept = tempfile.mkstemp(dir=_folder(), suffix=".txt")
    os.close(descriptor)
    take = take_out if format.has_columns else take_out_guarded
    return Converted(Path(kept), reading, take(opened, Path(kept)))


@functools.cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="quill-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
