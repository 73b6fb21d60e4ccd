"""E-books, web pages, Word and PDF documents, subtitles and tables: what becomes text, and what is counted."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from own_files import HTML, SUBTITLES, VTT, WORDS, docx, epub, page, pdf, with_footnote
from quillgpt.config.format_rules import FORMATS as NAMES
from quillgpt.config.format_rules import FormatRules
from quillgpt.errors import DataError, UserError
from quillgpt.text.formats.all_formats import FORMATS


def test_every_format_has_a_reader() -> None:
    assert {*FORMATS} | {"text"} == {*NAMES}


def test_an_epub_is_read_in_the_order_of_its_spine_without_navigation(read, tmp_path: Path) -> None:
    found = read(epub(tmp_path / "b.epub"))
    assert found.documents == [f"Two\n\n{WORDS},\na new line.\n\n- a\n- b\n\nOne\n\nIt ends in a café."]
    assert found.tally.read == {"chapters": 2}
    assert found.tally.dropped == {"pages of navigation": 1, "pictures": 1}


def test_a_chapter_that_is_no_xml_is_read_as_a_web_page(read, tmp_path: Path) -> None:
    found = read(epub(tmp_path / "b.epub", one="<html><body><p>not <b>closed<p>at all"))
    assert found.documents[0].endswith("not closed\n\nat all")


def test_a_web_page_is_its_text_without_menus_and_scripts(read) -> None:
    found = read("p.html", HTML)
    assert found.documents == ["Of Foxes\n\nOne bold fox.\n\n- red\n- grey\n\na\tb\n\nx  y\nz"]
    assert found.tally.dropped == {"parts for navigation": 1, "scripts": 1}


def test_the_encoding_of_a_web_page_is_detected(read) -> None:
    text = page(f"<p>{'Ёжик и лисица живут в большом лесу. ' * 9}</p>")
    found = read("p.htm", text.encode("cp1251"))
    assert found.encoding == "cp1251"
    assert "Ёжик и лисица" in found.documents[0]


def test_a_word_document_has_headings_lists_tables_and_footnotes(read, tmp_path: Path) -> None:
    found = read(with_footnote(docx(tmp_path / "d.docx")))
    assert found.documents == [f"Of Foxes\n\n{WORDS}.[1]\n\n- red\n- grey\n\nanimal\tfox\n\n[1] A note."]
    assert found.tally.read == {"headings": 1, "paragraphs": 1, "items of lists": 2, "tables": 1, "footnotes": 1}


def test_a_pdf_is_mended_and_what_was_mended_is_counted(read) -> None:
    pages = [
        [
            "The Book of Foxes",
            f"Page {word} begins with a long line of words that goes on be-",
            "yond its end and",
            f"then {word} ends.",
            f"Another paragraph of {word} is here, which is a line of the usual width",
            f"and goes on to the end of page {word}.",
            f"{number}",
        ]
        for number, word in enumerate(("one", "two", "three", "four"), 11)
    ]
    found = read("d.pdf", pdf(pages))
    (text,) = found.documents
    assert "goes on beyond its end and then one ends.\n\nAnother paragraph of one" in text
    assert "Book of Foxes" not in text
    assert "11" not in text
    assert found.tally.read == {"pages": 4, "hyphenated words joined": 4}
    assert found.tally.dropped == {"repeated headers and footers": 4, "page numbers": 4}
    assert "where lines and paragraphs end is guessed" in found.tally.remarks


def test_scanned_pages_of_a_pdf_are_named(read) -> None:
    found = read("d.pdf", pdf([[WORDS], None, [], None]))
    assert found.tally.dropped == {"scanned pages": 2, "empty pages": 1}
    assert "pages 2, 4 are scanned" in found.tally.remarks[0]
    assert "page 2 is a scanned" in read("d.pdf", pdf([[WORDS], None])).tally.remarks[0]
    with pytest.raises(DataError, match=r"scan.pdf has only scanned pages.*ocrmypdf"):
        read("scan.pdf", pdf([None]))


def test_ligatures_are_written_out() -> None:
    from quillgpt.text.formats.opened import Tally
    from quillgpt.text.formats.printed_pages import mended

    tally = Tally()
    assert mended(["The ﬁrst oﬃce ﬂoats."], tally) == "The first office floats."
    assert tally.read == {"ligatures written out": 3}


@pytest.mark.parametrize(
    ("name", "content", "text", "dropped"),
    [
        ("s.srt", SUBTITLES, "Hello there.\n- Who?\n- Me.", {}),
        ("s.vtt", VTT, "Anna: Hello there.", {"notes and styles": 1, "lines that repeat the one before": 1}),
    ],
)
def test_subtitles_are_what_is_said_without_times(read, name, content, text, dropped) -> None:
    found = read(name, content)
    assert found.documents == [text]
    assert found.tally.read == {"subtitles": 2}
    assert +found.tally.dropped == dropped


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'id,body,who\n1,"one\nmore",A\n2,two,B\n3,,C\n'),
        ("t.tsv", 'id\tbody\twho\n1\t"one\nmore"\tA\n2\ttwo\tB\n'),
        ("t.jsonl", '{"body": "one\\nmore", "who": "A"}\n{"body": "two", "who": "B"}\n{"who": "C"}\n'),
        ("t.json", '[{"body": "one\\nmore", "who": "A"}, {"body": "two", "who": "B"}]'),
    ],
)
def test_a_table_is_one_column_and_a_row_is_a_document(read, name, content) -> None:
    found = read(name, content, "body")
    assert found.documents == ["one\nmore", "two"]
    with pytest.raises(DataError, match=rf"{name}:COLUMN, with COLUMN one of body, who"):
        read(name, content)
    with pytest.raises(DataError, match=rf"{name} has no column bdy; it has .*body"):
        read(name, content, "bdy")


def test_the_only_column_that_can_be_meant_is_read_and_said(read) -> None:
    found = read("t.csv", "id,text,who\n1,one,A\n2,two,B\n")
    assert found.documents == ["one", "two"]
    assert "its column text is read; others: id, who" in found.tally.remarks


def test_a_column_of_what_has_none_is_refused(read) -> None:
    with pytest.raises(DataError, match=r"p.html is a web page, which has no columns"):
        read("p.html", HTML, "body")
    with pytest.raises(DataError, match=r"p.txt is a text, which has no columns"):
        read("p.txt", WORDS, "body")


def test_the_user_may_name_the_format(read) -> None:
    assert read("p.php", HTML, read_as=FormatRules.parse("*.php=html")).format == "html"
    assert read("s.txt", SUBTITLES, read_as=FormatRules.parse("srt")).documents[0].startswith("Hello")
    assert read("rows.txt", '{"body": "one", "id": "1"}\n', "body", read_as=FormatRules.parse("jsonl")).documents == [
        "one"
    ]
    with pytest.raises(ValueError, match="did you mean whatsapp"):
        FormatRules.parse("whatsap")


@pytest.mark.parametrize(
    ("module", "name", "content"),
    [("selectolax", "p.html", HTML), ("docx", "p.docx", "PK"), ("pypdfium2", "p.pdf", pdf([[WORDS]]))],
)
def test_a_missing_package_is_one_line_with_the_extra(
    opened, monkeypatch: pytest.MonkeyPatch, module: str, name: str, content: str | bytes
) -> None:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    file = opened(name, content)
    with pytest.raises(UserError, match=rf"{name} needs the package {module}.*quillgpt\[documents\]"):
        list(FORMATS[file.format].read(file))
