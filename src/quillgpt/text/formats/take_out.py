"""Takes the documents out of a file."""

from __future__ import annotations

from pathlib import Path

from quillgpt.text.encodings.normal_forms import without_surrogates
from quillgpt.text.encodings.reading import EmptyFileError
from quillgpt.text.formats.all_formats import FORMATS
from quillgpt.text.formats.opened import Opened, Tally

SEPARATOR = "\0"
"""Ends every document in a file that holds many; no text has this character."""


def take_out(opened: Opened, kept: Path) -> Tally:
    """Take the documents out of a file, and return what was found.

    Args:
        opened: The file.
        kept: The file for the documents, in UTF-8, with a `SEPARATOR` behind each.

    Raises:
        DataError: It is damaged, not made to be read, or has no text.
        UserError: An optional package is missing.
    """
    documents = 0
    try:
        with kept.open("w", encoding="utf-8", newline="") as file:
            for document in FORMATS[opened.format].read(opened):
                text = without_surrogates(document.replace("\r\n", "\n").replace("\r", "\n").replace(SEPARATOR, ""))
                if text.strip():
                    documents += 1
                    file.write(text + SEPARATOR)
                else:
                    opened.tally.dropped["documents without text"] += 1
    except RecursionError as error:
        raise opened.damaged("it nests too deep") from error
    except MemoryError as error:
        raise opened.refused("needs more memory than documents do") from error
    if documents == 0:
        raise EmptyFileError(
            f"{opened.name} has no text that could be read; leave it out, or look at it in another program"
        )
    return opened.tally
