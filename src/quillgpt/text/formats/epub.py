"""E-books: their chapters in reading order, without cover, navigation and pictures."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote
from xml.parsers.expat import ExpatError

from quillgpt.text.formats.archive import Archive, parse_part, parse_xml
from quillgpt.text.formats.blocks import Blocks
from quillgpt.text.formats.html import text_of_html
from quillgpt.text.formats.opened import Opened

CONTAINER = "META-INF/container.xml"
ENCRYPTION = "META-INF/encryption.xml"
CHAPTER_TYPES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document")


@dataclass
class _Package:
    """The parts of a book: paths and types by id, the ids in reading order, and what is navigation."""

    paths: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    spine: list[str] = field(default_factory=list)
    navigation: set[str] = field(default_factory=set)


def read_epub(file: Opened) -> Iterator[str]:
    """Yield the text of a book.

    Raises:
        DataError: It is damaged or encrypted, or not made to be read.
    """
    with Archive(file) as archive:
        package = _package(file, archive)
        encrypted = _encrypted(file, archive)
        chapters = []
        for id in package.spine:
            path = package.paths.get(id)
            if path is None or package.types[id] not in CHAPTER_TYPES:
                file.tally.dropped["pages that are no text"] += 1
            elif path in package.navigation:
                file.tally.dropped["pages of navigation"] += 1
            elif path in encrypted:
                raise file.refused("is encrypted (it has a copy protection), and can be read only with its key")
            elif text := _chapter(file, archive.read(path)):
                file.tally.read["chapters"] += 1
                chapters.append(text)
            else:
                file.tally.dropped["pages without text"] += 1
    pictures = sum(kind.startswith("image/") for kind in package.types.values())
    if pictures:
        file.tally.dropped["pictures"] += pictures
    yield "\n\n".join(chapters)


def _package(file: Opened, archive: Archive) -> _Package:
    roots: list[str] = []

    def root(name: str, attributes: dict[str, str]) -> None:
        if name == "rootfile" and "full-path" in attributes:
            roots.append(attributes["full-path"])

    parse_part(file, archive, CONTAINER, root)
    if not roots:
        raise file.damaged(f"{CONTAINER} names no book")
    folder = posixpath.dirname(roots[0])
    package = _Package()

    def inside(reference: str) -> str:
        return posixpath.normpath(posixpath.join(folder, unquote(reference.partition("#")[0])))

    def element(name: str, attributes: dict[str, str]) -> None:
        if name == "item" and {"id", "href"} <= attributes.keys():
            path = inside(attributes["href"])
            package.paths[attributes["id"]] = path
            package.types[attributes["id"]] = attributes.get("media-type", "")
            if "nav" in attributes.get("properties", "").split():
                package.navigation.add(path)
        elif name == "itemref" and "idref" in attributes:
            package.spine.append(attributes["idref"])
        elif name == "reference" and attributes.get("type") == "toc" and "href" in attributes:
            package.navigation.add(inside(attributes["href"]))

    parse_part(file, archive, roots[0], element)
    if not package.spine:
        raise file.damaged("it lists no chapters")
    return package


def _encrypted(file: Opened, archive: Archive) -> set[str]:
    """Return the parts that cannot be read; fonts often are."""
    parts: set[str] = set()
    if ENCRYPTION in archive.names:

        def element(name: str, attributes: dict[str, str]) -> None:
            if name == "CipherReference":
                parts.add(unquote(attributes.get("URI", "")))

        parse_part(file, archive, ENCRYPTION, element)
    return parts


def _chapter(file: Opened, content: bytes) -> str:
    """Return the text of a chapter; one that is no well-formed XML is read as a web page."""
    blocks = Blocks()
    try:
        parse_xml(
            file,
            content,
            start=lambda name, attributes: blocks.start(name.lower(), attributes),
            end=lambda name: blocks.end(name.lower()),
            text=blocks.text,
        )
    except ExpatError:
        return text_of_html(content.decode("utf-8", "replace"), file)
    file.tally.dropped.update(blocks.dropped)
    return blocks.result()
