import pytest

from quillgpt.errors import DataError
from quillgpt.text.sources import gutenberg
from quillgpt.text.sources.downloads import MissingFileError
from quillgpt.text.sources.gutenberg import _body, fetch_book, has_licence

BOOK = (
    "   THE LAMENT OF THE LAMPLIGHTER\n\n\nCHAPTER I\n\nProduce of the orchard lay about.\n\n***\n\nThe end, he said.\n"
)
HEADER = (
    "\ufeffThe Project Gutenberg eBook of The Lament of the Lamplighter\n\nThis ebook is for nobody in particular, and "
    "you may do\nwith it as you like.\n\nTitle: The Lament of the Lamplighter\n\nCredits: A. Nonymous\n\n\n"
)
START = "*** START OF THE PROJECT GUTENBERG EBOOK THE LAMENT OF THE LAMPLIGHTER ***\n\n\n\n"
END = "\n\n\n*** END OF THE PROJECT GUTENBERG EBOOK THE LAMENT OF THE LAMPLIGHTER ***\n"
LICENCE = "\n\nUpdated editions will replace this one.\n\n*** START: FULL LICENSE ***\n\nSection 1. Nothing.\n" * 2
LAST_WORDS = "\n\n\nEnd of the Project Gutenberg EBook of The Lament of the Lamplighter, by\nNobody at all\n"
CREDITS = "Produced by A. Nonymous, B. Nonymous and the Imaginary\nProofreading Team at http://example.org\n\n\n\n"
LATER_CREDITS = "E-text prepared by A. Nonymous\n\n\n\nNote: Project Gutenberg also has a version with pictures.\n\n\n"
SMALL_PRINT = (
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy is it small? Nobody knows.\n\n"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
)
OLD_HEADER = "**The Project Gutenberg Etext of The Lament of the Lamplighter**\n\nPlease take a look.\n\n"
FILES = {
    "modern": HEADER + START + BOOK + END + LICENCE,
    "this": HEADER + START.replace("THE PROJECT", "THIS PROJECT") + BOOK + END.replace("THE P", "THIS P") + LICENCE,
    "no space": HEADER + START.replace("*** S", "***S") + BOOK + END.replace("*** E", "***E") + LICENCE,
    "small letters": HEADER + START.title() + BOOK + END.title() + LICENCE,
    "long title": HEADER + START.replace("OF THE LAMP", "OF\nTHE LAMP") + BOOK + END.replace("OF THE L", "OF\nTHE L"),
    "no closing stars": HEADER + START.replace(" ***\n", "\n") + BOOK + END,
    "last words": HEADER + START + BOOK + LAST_WORDS + END + LICENCE,
    "possessive last words": HEADER + START + BOOK + "\n\nEnd of Project Gutenberg's The Lament, by Nobody\n" + END,
    "credits": HEADER + START + CREDITS + BOOK + LAST_WORDS + END + LICENCE,
    "two credits": HEADER + START + LATER_CREDITS + BOOK + END + LICENCE,
    "transcribed": HEADER + START + "Transcribed from the 1890 edition by Nobody\n\n\n" + BOOK + END,
    "small print before": OLD_HEADER + SMALL_PRINT + BOOK + LAST_WORDS,
    "small print before, etext": OLD_HEADER + SMALL_PRINT + BOOK + "\nEnd of this Project Gutenberg Etext of it\n\n",
    "newer small print": OLD_HEADER + SMALL_PRINT.replace("*END*THE", "*END THE") + BOOK + LAST_WORDS,
    "small print and start": OLD_HEADER + SMALL_PRINT + START + CREDITS + BOOK + END,
    "start and small print": OLD_HEADER + START + SMALL_PRINT + CREDITS + BOOK + END,
    "small print after": OLD_HEADER + START + BOOK + LAST_WORDS + "\nMore of the same.\n\n" + SMALL_PRINT,
    "small print after the end": OLD_HEADER + START + BOOK + END + "\nThis file should be named x.txt\n" + SMALL_PRINT,
    "licence without an end": HEADER + START + BOOK + LICENCE.partition("Updated")[0] + "*** START: FULL LICENSE ***\n",
    "end alone": BOOK + END + LICENCE,
    "start alone": HEADER + START + BOOK,
}


def without_licence(text):
    span = _body(text)
    return None if span is None else text[slice(*span)] + "\n"


@pytest.fixture
def library(site, monkeypatch):
    monkeypatch.setattr(gutenberg, "ADDRESS", site.address("/ebooks/{number}.txt.utf-8"))
    return site


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_what_stands_around_a_book_is_removed_and_the_book_is_not_touched(text):
    assert without_licence(text) == BOOK


@pytest.mark.parametrize("name", [name for name in FILES if name != "end alone"])
def test_a_licence_is_noticed_at_its_beginning_and_not_in_what_is_left(name):
    assert has_licence(FILES[name][:300])
    assert not has_licence(BOOK)


@pytest.mark.parametrize(
    "heading", ["Project Gutenberg's Lament, by Nobody\n", "\n\nThe Project Gutenberg EBook of X\n"]
)
def test_headings_of_every_time_are_noticed(heading):
    assert has_licence(heading)


@pytest.mark.parametrize(
    "text",
    [
        BOOK,
        "We read it in a Project Gutenberg ebook.\n",
        "*** START OF THE SHOW ***\n\nHello.\n\n*** END OF THE SHOW ***\n",
        OLD_HEADER + BOOK,
    ],
)
def test_a_text_without_marks_is_left_alone(text):
    assert without_licence(text) is None


def test_only_credits_directly_before_the_book_are_removed():
    book = BOOK + "\nProduced by hand, the lamps were dear.\n"
    assert without_licence(HEADER + START + CREDITS + book + END) == book
    prose = "Produced by hand,\n" + "the lamps were dear,\n" * 20
    assert without_licence(HEADER + START + prose + END) == prose


def test_last_words_in_the_middle_of_a_collection_do_not_end_it():
    collection = BOOK + LAST_WORDS + BOOK * 20
    assert without_licence(HEADER + START + collection + END) == collection


def test_a_book_is_fetched_once_and_its_text_is_kept(library, tmp_path, capsys):
    library.publish("/ebooks/9.txt.utf-8", FILES["credits"].replace("\n", "\r\n").encode())
    path = fetch_book(9)
    assert path == tmp_path / "home" / "corpora" / "gutenberg-9.txt"
    assert path.read_bytes() == BOOK.encode()
    before, after = FILES["credits"].split(BOOK)
    said = capsys.readouterr().err
    lines = f"{before.count(chr(10))} lines before the text and {after.count(chr(10))} after it; 10 lines are left"
    assert lines in said
    assert fetch_book(9) == path
    assert "Removed" not in capsys.readouterr().err
    assert len(library.requests) == 1


def test_a_book_comes_from_the_mirror_where_it_is_there(library, tmp_path, monkeypatch):
    mirrored = tmp_path / "mirror" / "gutenberg" / "9.txt"
    mirrored.parent.mkdir(parents=True)
    mirrored.write_text(FILES["modern"], encoding="utf-8")
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    assert fetch_book(9).read_text(encoding="utf-8") == BOOK
    assert library.requests == []


def test_the_text_is_made_again_when_the_downloaded_file_or_the_text_changed(library, tmp_path):
    library.publish("/ebooks/9.txt.utf-8", FILES["modern"].encode())
    path = fetch_book(9)
    path.write_text("scribbled over", encoding="utf-8")
    assert fetch_book(9).read_text(encoding="utf-8") == BOOK
    (tmp_path / "home" / "downloads" / "gutenberg" / "9.txt").write_text(HEADER + START + "Other.\n" + END)
    assert fetch_book(9).read_text(encoding="utf-8") == "Other.\n"


def test_a_book_in_an_old_encoding_becomes_utf_8(library):
    book = "Der Müller saß über den Büchern und grüßte die Gäste, die spät kamen.\n"
    library.publish("/ebooks/9.txt.utf-8", (OLD_HEADER + SMALL_PRINT + book + LAST_WORDS).encode("cp1252"))
    assert fetch_book(9).read_bytes() == book.encode("utf-8")


def test_a_book_without_marks_is_kept_whole_with_a_warning(library, capsys):
    library.publish("/ebooks/9.txt.utf-8", BOOK.encode())
    assert fetch_book(9).read_text(encoding="utf-8") == BOOK
    assert "warning: book 9 of Project Gutenberg has no licence where one is expected" in capsys.readouterr().err


def test_what_is_far_larger_than_a_book_is_not_read(library, monkeypatch):
    monkeypatch.setattr(gutenberg, "MOST_BYTES", 1000)
    library.publish("/ebooks/7.txt.utf-8", b"x" * 1001)
    with pytest.raises(DataError, match="book 7 of Project Gutenberg has 1,001 bytes, and no book has more than 1,000"):
        fetch_book(7)


def test_a_number_without_a_book_is_named_with_the_page_to_look_at(library):
    with pytest.raises(MissingFileError, match="number 99999999; look at") as caught:
        fetch_book(99999999)
    assert "https://www.gutenberg.org/ebooks/99999999," in str(caught.value)


def test_a_page_of_the_library_is_not_taken_for_a_book(library, tmp_path):
    library.publish("/ebooks/9.txt.utf-8", b"<html>", headers={"Content-Type": "text/html; charset=utf-8"})
    with pytest.raises(DataError, match="it is a web page, not a plain text"):
        fetch_book(9)
    assert not (tmp_path / "home" / "corpora").exists()
