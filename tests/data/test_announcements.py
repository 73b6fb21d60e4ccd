"""What many documents begin or end with: found, left out, and not seen where there is nothing."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from quillgpt.cli.prepare import _summary
from quillgpt.data import edges
from quillgpt.data.announcements import Announcement, Trim, announcements
from quillgpt.data.edges import EdgeSample, Side, sample_of
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.text.sources.documents import Mark, Piece

WORDS = re.findall(r"[a-z]+", " ".join(topics.values()).lower())
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
LIBRIVOX = (
    "Chapter {} of The River Bank. This is a LibriVox recording. All LibriVox recordings are in the public domain. "
    "For more information, or to volunteer, please visit LibriVox dot org. Recording by John Smith. "
)
CREDITS = " End of chapter {}. Thanks for listening, and see you next time!"


def stories(count: int, *, sentences: bool = True, seed: int = 0) -> list[str]:
    """Return texts of 120 words that share nothing but their language."""
    random_ = random.Random(seed)
    texts = []
    for _ in range(count):
        start = random_.randrange(len(WORDS) - 120)
        words = WORDS[start : start + 120]
        if sentences:
            ends = [0, *sorted(random_.sample(range(5, 115), 12)), 120]
            words = [" ".join(words[a:b]).capitalize() + "." for a, b in pairwise(ends)]
        texts.append(" ".join(words))
    return texts


def as_misheard(text: str, share: float, seed: int) -> str:
    """Return a text as a simple recognizer writes it: no sentences, some words wrong, missing or added."""
    random_ = random.Random(seed)
    heard: list[str] = []
    for word in re.sub(r"[^\w ]", "", text).lower().split():
        error = random_.choice(("missing", "wrong", "added")) if random_.random() < share else None
        heard += [] if error == "missing" else [random_.choice(WORDS)] if error == "wrong" else [word]
        heard += [random_.choice(WORDS)] if error == "added" else []
    return " ".join(heard)


def noticed(texts: list[str], side: Side = "opening", least: int | None = None) -> list[Announcement]:
    return announcements(sample_of((text, text) for text in texts), side, least)


def left(texts: list[str], side: Side = "opening", least: int | None = None, size: int = 50) -> list[str]:
    """Return the documents after what many of them begin or end with is left out."""
    whole, text = [], ""
    for piece in Trim(noticed(texts, side, least), side).stream(cut_up(texts, size)):
        if isinstance(piece, Mark):
            whole.append(text)
            text = ""
        else:
            text += piece
    assert text == ""
    return whole


def cut_up(texts: list[str], size: int) -> Iterator[Piece]:
    for text in texts:
        yield from (text[start : start + size] for start in range(0, len(text), size))
        yield Mark.DOCUMENT_END


@pytest.mark.parametrize(
    "heading",
    [
        "Chapter {}. ",
        "Chapter {} ",
        "CHAPTER {}\n\n",
        "Chapter: {}\n=======\n\n",
        "This is lecture number {}. ",
        "Pride and Prejudice, by Jane Austen. Chapter {}. ",
    ],
)
@pytest.mark.parametrize("numbers", [NUMBERS, tuple(map(str, range(98, 110))), ROMAN], ids=["words", "digits", "Roman"])
def test_a_heading_with_a_number_is_noticed_and_left_out(heading: str, numbers: tuple[str, ...]) -> None:
    if heading == "Chapter {} " and "I" in numbers:
        pytest.skip("a single I within a sentence is a word")
    bodies = stories(12)
    texts = [heading.format(number) + body for number, body in zip(numbers, bodies, strict=True)]
    (opening,) = noticed(texts)
    assert opening.documents == 12
    assert opening.text.startswith(heading.split()[0].rstrip(":"))
    assert left(texts) == bodies


@pytest.mark.parametrize(
    ("announcement", "side"),
    [
        ("Chapter ", "opening"),
        ("Chapter the {}. ", "opening"),
        ("Kapitel {}. ", "opening"),
        ("第{}章 ", "opening"),
        ("Copyright 2024 Somebody.\n\n", "opening"),
        (" Thanks for watching!", "ending"),
        ("\n\nThe End.", "ending"),
        ("\nEnd of chapter {}", "ending"),
        ("[Music] ", "opening"),
        ("Глава {}. ", "opening"),
        ("제{}장. ", "opening"),
        (" Amen.", "ending"),
        (" Thank you. (Applause)", "ending"),
        ("\n\nYours sincerely,\nHenry", "ending"),
        (" Untertitel der Amara.org-Community", "ending"),
    ],
)
def test_what_recordings_and_files_begin_and_end_with_is_left_out(announcement: str, side: Side) -> None:
    bodies = stories(9)
    numbers = "一二三四五六七八九" if "章" in announcement else "123456789" if "장" in announcement else NUMBERS[:9]
    words = [announcement.format(number) for number in numbers]
    texts = [word + body if side == "opening" else body + word for word, body in zip(words, bodies, strict=True)]
    assert [one.documents for one in noticed(texts, side)] == [9]
    assert left(texts, side) == bodies
    other: Side = "ending" if side == "opening" else "opening"
    assert noticed(texts, other) == []


def test_long_announcements_are_left_out_whole_at_both_ends() -> None:
    bodies = stories(12)
    texts = [
        LIBRIVOX.format(number) + body + CREDITS.format(number) for number, body in zip(NUMBERS, bodies, strict=True)
    ]
    assert left(left(texts, "opening"), "ending") == bodies


@pytest.mark.parametrize("share", [0.05, 0.1])
def test_words_that_a_recognizer_misheard_are_tolerated(share: float) -> None:
    bodies = stories(12, sentences=False)
    texts = [
        as_misheard(LIBRIVOX.format(number), share, seed) + " " + body
        for seed, (number, body) in enumerate(zip(NUMBERS, bodies, strict=True))
    ]
    after = left(texts)
    assert sum(text == body for text, body in zip(after, bodies, strict=True)) >= 9
    assert all(body in text for text, body in zip(after, bodies, strict=True)), "what is said is never left out"


def test_announcements_of_two_books_are_found_beside_each_other() -> None:
    bodies = stories(20)
    books = ["Emma, by Jane Austen. Chapter {}. "] * 12 + ["Dracula. By Bram Stoker. Chapter {}. "] * 8
    texts = [book.format(number % 9 + 1) + body for number, (book, body) in enumerate(zip(books, bodies, strict=True))]
    assert [one.documents for one in noticed(texts)] == [12, 8]
    assert left(texts) == bodies
    assert left(texts, least=10) == bodies[:12] + texts[12:]


def test_documents_without_the_announcement_keep_their_text() -> None:
    bodies = stories(12)
    texts = [("Chapter 3. " if number % 3 else "") + body for number, body in enumerate(bodies)]
    assert [one.documents for one in noticed(texts)] == [8]
    assert left(texts) == bodies


SPEECHES = [
    f"{name}:\n{story}" for name, story in zip(("ROMEO", "JULIET", "NURSE", "TYBALT") * 10, stories(40), strict=True)
]


@pytest.mark.parametrize(
    "texts",
    [
        stories(60),
        stories(60, sentences=False),
        list(topics.values()),
        [part for topic in topics.values() for part in topic.split("\n\n") if part.strip()],
        ["Once upon a time, there was a " + story for story in stories(20)],
        [
            start + story
            for start, story in zip(("The ", "A ", "I ", "In the ", "When I ") * 8, stories(40), strict=True)
        ],
        [f"In {1900 + number} the " + story for number, story in enumerate(stories(8))] + stories(32, seed=1),
        SPEECHES,
        [f"User: {story}" for story in stories(30)],
        [f"Speaker {number % 3}: {story}" for number, story in enumerate(stories(30))],
        [Path(edges.__file__).read_text(encoding="utf-8") + str(number) for number in range(2)],
        ["Thank you."] * 20 + stories(10),
        ["The same text. " + "It goes on and on. " * 200] * 12 + stories(9),
        ["Lecture 1. " + story for story in stories(2)],
        ["", "\n", "...", " "],
        [],
    ],
    ids=lambda texts: f"{len(texts)} documents",
)
def test_ordinary_texts_have_no_announcements(texts: list[str]) -> None:
    assert noticed(texts, "opening") == []
    assert noticed(texts, "ending") == []


@pytest.mark.parametrize("size", [1, 7, edges.LONGEST_EDGE, 10**6])
def test_what_is_left_does_not_depend_on_the_pieces(size: int) -> None:
    bodies = [" ".join(stories(20, seed=seed)) for seed in range(4)]
    texts = [LIBRIVOX.format(n) + body + CREDITS.format(n) for n, body in enumerate(bodies)] + [LIBRIVOX, "x"]
    assert left(left(texts, "opening", 4, size), "ending", 4, size) == [*bodies, "x"]


def test_memory_is_bounded_and_the_kept_documents_are_spread_over_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "MOST_EDGES", 100)
    sample = EdgeSample()
    bodies = stories(1000)
    for number, body in enumerate(bodies):
        for piece in (f"Chapter {number}. ", body * 30):
            sample.add(piece)
        sample.end_document()
        assert len(sample.beginnings) <= 100
    assert all(len(text) == edges.LONGEST_EDGE for text in sample.beginnings + sample.ends)
    (opening,) = announcements(sample, "opening")
    assert opening.documents == 1008, "63 documents, one of sixteen each"


def test_prepare_names_the_flag_leaves_it_out_and_remembers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tales"
    folder.mkdir()
    bodies = stories(12)
    for number, body in zip(NUMBERS, bodies, strict=True):
        (folder / f"{number}.txt").write_text(f"Chapter {number}. {body} Thanks for listening!\n", encoding="utf-8")
    noticed_rows = _summary(prepare([str(folder)], data_dir=tmp_path / "data", tokenizer="byte"))
    assert "12 of 12 documents begin with 'Chapter" in str(noticed_rows["openings"])
    assert str(noticed_rows["openings"]).endswith("; --drop_openings=3 leaves out what they share")
    assert noticed_rows["endings"] == (
        "12 of 12 documents end with 'Thanks for listening!'; --drop_endings=3 leaves out what they share"
    )
    done = prepare([str(folder)], data_dir=tmp_path / "data", tokenizer="byte", drop_openings=12, drop_endings=12)
    assert "Left out the openings of 12 documents" in capsys.readouterr().err
    tokenizer = done.dataset.tokenizer
    texts = "".join(tokenizer.decode(tokens) for tokens in (done.dataset.train, done.dataset.val))
    assert sorted(texts.split("<|endoftext|>")) == sorted([*(f"{body}\n" for body in bodies), ""])
    report = done.manifest.report
    assert report is not None
    assert (done.manifest.drop_openings, done.manifest.drop_endings) == (12, 12)
    assert (report.dropped_openings, report.dropped_endings, report.openings[0].documents) == (12, 12, 12)
    assert str(_summary(done)["openings"]).endswith("; left out of 12 documents")

    assert ensure_dataset("tales", data_dir=tmp_path / "data").fingerprint == done.dataset.fingerprint
    (folder / "one.txt").write_text("Chapter fifty. Another text.\n", encoding="utf-8")
    changed = ensure_dataset("tales", data_dir=tmp_path / "data")
    assert "Chapter fifty" not in tokenizer.decode(changed.train) + tokenizer.decode(changed.val)


def test_files_are_compared_by_their_ends_and_unreadable_ones_are_passed_over(tmp_path: Path) -> None:
    for number, body in enumerate(stories(4)):
        (tmp_path / f"{number}.txt").write_text(
            f"Chapter {number}. {body * 200} Thanks for watching!", encoding="utf-8"
        )
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "b.txt").symlink_to("nowhere")
    sample = edges.sample_of_files(sorted(tmp_path.iterdir()))
    assert [one.text for one in announcements(sample, "opening")] == ["Chapter 0."]
    assert [one.text for one in announcements(sample, "ending")] == ["Thanks for watching!"]


def test_validation_text_loses_the_same_openings(tmp_path: Path) -> None:
    for name, count in (("tales", 12), ("val", 2)):
        (tmp_path / name).mkdir()
        for number, body in zip(NUMBERS, stories(count, seed=count), strict=False):
            (tmp_path / name / f"{number}.txt").write_text(f"Chapter {number}. {body}", encoding="utf-8")
    words = [str(tmp_path / "tales")]
    done = prepare(words, data_dir=tmp_path / "data", tokenizer="byte", val=str(tmp_path / "val"), drop_openings=5)
    assert done.dataset.tokenizer.decode(done.dataset.val).split("<|endoftext|>")[:2] == stories(2, seed=2)[::1]
    assert done.manifest.report is not None
    assert done.manifest.report.dropped_openings == 14


def test_one_document_has_nothing_to_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.txt").write_text("Chapter 1. " + stories(1)[0], encoding="utf-8")
    plain = prepare([str(tmp_path / "book.txt")], data_dir=tmp_path / "data")
    dropped = prepare([str(tmp_path / "book.txt")], data_dir=tmp_path / "data", dataset="b", drop_openings=2)
    assert dropped.dataset.fingerprint == plain.dataset.fingerprint
    assert "drop_openings needs several documents, and there is only one" in capsys.readouterr().err
