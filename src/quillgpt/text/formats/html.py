"""Web pages: their text, without navigation, scripts and styles."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from quillgpt.extras import import_extra
from quillgpt.text.formats.blocks import Blocks
from quillgpt.text.formats.limits import MOST_DEPTH, MOST_ELEMENTS, MOST_PAGE_BYTES
from quillgpt.text.formats.opened import Opened


def read_html(file: Opened) -> Iterator[str]:
    """Yield the text of a web page.

    Raises:
        DataError: It is too large or too deep.
        UserError: The extra `documents` is missing.
    """
    file.check_size(MOST_PAGE_BYTES)
    file.tally.read["pages"] += 1
    yield text_of_html(file.text(), file)


def text_of_html(content: str, file: Opened) -> str:
    """Return the text of HTML, and count in the file's tally what is left out.

    Raises:
        DataError: It is too large or too deep.
        UserError: The extra `documents` is missing.
    """
    import_extra("selectolax", extra="documents", purpose=file.name)
    parser = import_module("selectolax.lexbor")
    if content.count("<") > MOST_ELEMENTS:
        raise file.refused(f"has more than {MOST_ELEMENTS:,} elements")
    blocks = Blocks()
    root = parser.LexborHTMLParser(content).root
    node, depth = root, 0
    while node is not None:  # without recursion: a page may be deep
        if node.is_text_node:
            blocks.text(node.text_content or "")
        elif node.is_element_node:
            blocks.start(node.tag, node.attributes)
        child = node.first_child
        if child is not None:
            node, depth = child, depth + 1
            if depth > MOST_DEPTH:
                raise file.refused(f"has more than {MOST_DEPTH:,} elements within each other")
            continue
        while node is not None:
            if node.is_element_node:
                blocks.end(node.tag)
            if depth == 0:
                node = None
            elif node.next is not None:
                node = node.next
                break
            else:
                node, depth = node.parent, depth - 1
    file.tally.dropped.update(blocks.dropped)
    return blocks.result()
