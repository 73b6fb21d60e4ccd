"""PDF documents: their text page by page, and mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quillgpt.extras import import_extra
from quillgpt.text.formats.limits import MOST_PAGES, SECONDS_PER_PAGE
from quillgpt.text.formats.opened import Opened
from quillgpt.text.formats.printed_pages import mended

PASSWORD = 4
"""The code of PDFium for a document that needs a password."""

IMAGE = 3
"""The code of PDFium for a picture on a page."""

MOST_PAGE_CHARACTERS = 1_000_000
MOST_NAMED = 12


def read_pdf(file: Opened) -> Iterator[str]:
    """Yield the text of a PDF document.

    Raises:
        DataError: It is damaged or encrypted, or has no text.
        UserError: The extra `documents` is missing.
    """
    pdfium = import_extra("pypdfium2", extra="documents", purpose=file.name)
    pages = list(_pages(file, pdfium))
    scanned = [number for number, (text, has_picture) in enumerate(pages, 1) if not text.strip() and has_picture]
    empty = sum(not text.strip() for text, _ in pages) - len(scanned)
    text = mended([text for text, _ in pages if text.strip()], file.tally)
    file.tally.read["pages"] += len(pages) - len(scanned) - empty
    if empty:
        file.tally.dropped["empty pages"] += empty
    if scanned:
        file.tally.dropped["scanned pages"] += len(scanned)
        if len(scanned) == len(pages):
            raise file.refused(
                f"has only scanned pages, which are pictures without text (ocrmypdf {file.path.name} OUT.pdf "
                "recognises it)"
            )
        named = ", ".join(map(str, scanned[:MOST_NAMED])) + ", ..." * (len(scanned) > MOST_NAMED)
        are = "pages {} are scanned pictures" if len(scanned) > 1 else "page {} is a scanned picture"
        file.tally.remarks.append(f"{are.format(named)} without text")
    file.tally.remarks.append("where lines and paragraphs end is guessed")
    yield text


def _pages(file: Opened, pdfium: Any) -> Iterator[tuple[str, bool]]:
    """Yield the text of each page, and whether there is a picture on it."""
    try:
        document = pdfium.PdfDocument(str(file.path))
    except pdfium.PdfiumError as error:
        if getattr(error, "err_code", None) == PASSWORD or "password" in str(error).lower():
            raise file.refused("is encrypted, and can be read only with its password") from error
        raise file.damaged(error) from error
    if len(document) > MOST_PAGES:
        raise file.refused(f"has more than {MOST_PAGES:,} pages")
    for number in range(len(document)):
        file.more_time(SECONDS_PER_PAGE)
        try:
            page = document[number]
            text = page.get_textpage().get_text_range(0, -1)[:MOST_PAGE_CHARACTERS]
            has_picture = bool(text.strip()) or next(page.get_objects(filter=[IMAGE], max_depth=2), None) is not None
        except pdfium.PdfiumError:
            text, has_picture = "", False
        yield text, has_picture
