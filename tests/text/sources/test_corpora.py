from __future__ import annotations

from pathlib import Path

import pytest

from quillgpt.config.dataset_names import name_of_sources
from quillgpt.errors import DataError
from quillgpt.text.sources.corpora import RECIPES, recipe_named, texts_of


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "Old Books"
    (folder / "more").mkdir(parents=True)
    for name in ("b.txt", "a.MD", "more/c.txt", "cover.jpg", "notes.pdf", "more/notes.pdf", "README", ".hidden.txt"):
        (folder / name).write_text(f"this is {name}")
    (folder / ".git").mkdir()
    (folder / ".git/d.txt").write_text("not a text of the person's")
    return folder


def names(given: str, tmp_path: Path) -> list[str]:
    return [source.path.name for source in texts_of([given], spool=tmp_path).train]


def test_a_folder_gives_its_texts_and_names_what_it_skips(
    books: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = names(str(books), tmp_path)
    assert [name for name in read if not name.endswith(".pdf")] == ["a.MD", "b.txt", "c.txt"]
    said = " ".join(capsys.readouterr().err.split())
    assert "texts and documents are read (5); skipped: 1 README, 1 .jpg" in said


def test_a_folder_without_texts_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match=r"scans has no texts or documents .*; it is empty"):
        texts_of([str(tmp_path / "scans")], spool=tmp_path)
    (tmp_path / "scans/page.png").write_text("x")
    with pytest.raises(DataError, match=r"it has 1 .png\. Give such files"):
        texts_of([str(tmp_path / "scans")], spool=tmp_path)


def test_patterns_are_matched_in_order(books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(str(books / "*.txt"), tmp_path) == ["b.txt"]
    assert names(str(books / "**" / "[bc].txt"), tmp_path) == ["b.txt", "c.txt"]
    monkeypatch.chdir(books)
    assert names("more/*", tmp_path) == ["c.txt", "notes.pdf"]
    with pytest.raises(DataError, match=r"no file matches .*\*.doc"):
        texts_of([str(books / "*.doc")], spool=tmp_path)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "chapter [1].txt"
    path.write_text("one")
    assert names(str(path), tmp_path) == ["chapter [1].txt"]


def test_several_sources_keep_their_order(books: Path, tmp_path: Path) -> None:
    given = [str(books / "more"), str(books / "b.txt")]
    assert [source.path.name for source in texts_of(given, spool=tmp_path).train] == ["c.txt", "notes.pdf", "b.txt"]


@pytest.mark.parametrize(
    ("given", "recipe"),
    [("TinyStories", "tinystories"), ("wiki", "wikitext"), ("Shakespeare-Char", "shakespeare_char"), ("mybook", None)],
)
def test_recipes_are_known_in_any_spelling(given: str, recipe: str | None) -> None:
    assert recipe_named(given) == recipe


def test_a_recipe_among_files_is_explained(books: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ptb is a recipe, which is prepared alone: quill prepare ptb"):
        texts_of([str(books), "ptb"], spool=tmp_path)


@pytest.mark.parametrize("given", ["gutenberg:", "gutenberg:romeo", "gutenberg:0", "gutenberg:-3"])
def test_a_book_has_a_number(given: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give its number at Project Gutenberg, as in gutenberg:1513"):
        texts_of([given], spool=tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("-", "stdin"),
        ("My Book.txt", "my_book"),
        ("texts/v1.2.md", "v1.2"),
        ("gutenberg:1513", "gutenberg_1513"),
        ("https://example.org/texts/War%20and%20Peace.txt?raw=1", "war_and_peace"),
        ("https://example.org/", "example.org"),
        ("hf:owner/Some-Name:body", "some_name"),
        ("hf:owner/name.v1", "name.v1"),
        ("poems/*.txt", "poems"),
        ("poems/**/19??/*.txt", "poems"),
    ],
)
def test_data_sets_are_named_after_their_source(given: str, name: str) -> None:
    assert name_of_sources([given, "other.txt"]) == name


def test_every_recipe_says_what_it_is_and_how_large() -> None:
    for recipe in RECIPES.values():
        assert "B)" in recipe.description or "B), " in recipe.description


def test_recipes_are_described():
    assert {"shakespeare_char", "shakespeare", "python_docs"} <= set(RECIPES)
    for recipe in RECIPES.values():
        assert recipe.tokenizer in ("char", "gpt2")
        assert 20 < len(recipe.description) < 100
