"""Word documents: headings, paragraphs, lists, rows of tables and footnotes, without headers, comments and pictures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from quillgpt.errors import UserError
from quillgpt.extras import import_extra
from quillgpt.text.formats.archive import Archive
from quillgpt.text.formats.limits import MOST_BYTES_AT_ONCE, MOST_DEPTH
from quillgpt.text.formats.opened import Opened

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
NOTES = re.compile(r"word/(footnotes|endnotes)\.xml")
ITEMS = "items of lists"
HEADING = re.compile(r"Heading|Title|Subtitle|berschrift|Titel|Titre")
"""How the styles of headings are called; Word leaves out the Ü of Überschrift."""

HIDDEN = {f"{W}{name}" for name in ("del", "moveFrom", "instrText", "delText")}
"""What a document keeps without showing it: text that was deleted, and fields."""


def read_docx(file: Opened) -> Iterator[str]:
    """Yield the text of a Word document.

    Raises:
        DataError: It is damaged or encrypted, or not made to be read.
        UserError: The extra `documents` is missing.
    """
    docx = import_extra("docx", extra="documents", purpose=file.name)
    file.check_size(MOST_BYTES_AT_ONCE)
    with Archive(file) as archive:
        archive.check()
        for name in archive.names:
            if name.endswith((".xml", ".rels")) and b"<!DOCTYPE" in (content := archive.read(name))[:100_000]:
                raise file.refused(f"has a document type in {name[:80]} ({len(content):,} bytes), as no Word file has")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            document = docx.Document(str(file.path))
            notes = _notes(document)
            body = document.element.body
            pictures = len(document.inline_shapes)
        lines = list(_blocks(body, file, notes))
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the library raises whatever it meets in a damaged file
        raise file.damaged(f"{type(error).__name__}: {error}") from error
    if notes:
        lines += ["", *(f"[{number}] {text}" for number, text in notes.values())]
        file.tally.read["footnotes"] += len(notes)
    if pictures:
        file.tally.dropped["pictures"] += pictures
    yield re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _notes(document: Any) -> dict[str, tuple[int, str]]:
    """Return number and text of each footnote and endnote, by the kind and id that refer to it."""
    etree = import_module("lxml.etree")
    notes: dict[str, tuple[int, str]] = {}
    for part in document.part.package.iter_parts():
        kind = NOTES.search(str(part.partname))
        if kind is None:
            continue
        root = etree.fromstring(part.blob, etree.XMLParser(resolve_entities=False, no_network=True))
        for note in root:
            text = " ".join(" ".join(_text(paragraph) for paragraph in note.iter(f"{W}p")).split())
            if note.get(f"{W}type") in (None, "normal") and text:
                notes[f"{kind[1]} {note.get(f'{W}id')}"] = (len(notes) + 1, text)
    return notes


def _blocks(body: Any, file: Opened, notes: dict[str, tuple[int, str]], depth: int = 0) -> Iterator[str]:
    """Yield the lines of the text, with an empty one after each paragraph and table."""
    if depth > MOST_DEPTH // 10:
        raise file.refused("has tables or fields far too deep within each other")
    for element in body:
        if element.tag == f"{W}p":
            text = _text(element, notes).strip()
            if not text:
                continue
            file.tally.read[_kind(element)] += 1
            is_item = _kind(element) == ITEMS
            yield f"- {text}" if is_item else text
            following = element.getnext()
            if not (is_item and following is not None and following.tag == f"{W}p" and _kind(following) == ITEMS):
                yield ""
        elif element.tag == f"{W}tbl":
            file.tally.read["tables"] += 1
            for row in element.findall(f"{W}tr"):
                cells = [_cell(cell, notes) for cell in row.findall(f"{W}tc")]
                if any(cells):
                    yield "\t".join(cells)
            yield ""
        elif element.tag == f"{W}sdt":
            for content in element.iter(f"{W}sdtContent"):
                yield from _blocks(content, file, notes, depth + 1)
                break


def _cell(cell: Any, notes: dict[str, tuple[int, str]]) -> str:
    return " ".join(" ".join(_text(paragraph, notes) for paragraph in cell.iter(f"{W}p")).split())


def _kind(paragraph: Any) -> str:
    properties = paragraph.pPr
    style = "" if properties is None else properties.style or ""
    if (properties is not None and properties.numPr is not None) or style.startswith("List"):
        return ITEMS
    return "headings" if HEADING.match(style) else "paragraphs"


def _text(paragraph: Any, notes: dict[str, tuple[int, str]] | None = None) -> str:
    parts: list[str] = []
    waiting = [paragraph]
    while waiting:
        element = waiting.pop()
        if element.tag in HIDDEN:
            continue
        match element.tag.removeprefix(W) if isinstance(element.tag, str) else "":
            case "t":
                parts.append(element.text or "")
            case "tab":
                parts.append("\t" if element.getparent().tag == f"{W}r" else "")
            case "br" | "cr":
                parts.append("\n")
            case "noBreakHyphen":
                parts.append("-")
            case "footnoteReference" | "endnoteReference" as reference:
                key = f"{reference.removesuffix('Reference')}s {element.get(f'{W}id')}"
                if notes and key in notes:
                    parts.append(f"[{notes[key][0]}]")
            case _:
                waiting += reversed(element)
    return "".join(parts)
