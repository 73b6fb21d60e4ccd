"""Positions lead back to the source's line, whatever preparing left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from own_files import epub, page
from quillgpt.data.dataset import Dataset
from quillgpt.trace import Tracer, open_tracer

Prepare = Callable[..., Dataset]

HEADER, FOOTER = "The weekly letter of the society for lost umbrellas\n", "Send us your umbrella, with a stamp.\n"


def documents(book: Path, count: int) -> list[str]:
    """Return documents of 40 lines each."""
    lines = book.read_text(encoding="utf-8").splitlines(keepends=True)
    return ["".join(lines[number * 40 : number * 40 + 40]) for number in range(count)]


def write_folder(folder: Path, texts: list[str]) -> Path:
    """Write a folder of texts."""
    folder.mkdir()
    for number, text in enumerate(texts):
        (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    return folder


def check_lines(tracer: Tracer, folder: Path, least: int) -> set[str]:
    """Check every line of the files that is traced, and return the files that have some."""
    # Headers that held-out documents have, too, would make the calibrated length that of whole headers.
    tracer = dataclasses.replace(tracer, calibration=tracer.calibration.model_copy(update={"least": 24}))
    seen: set[str] = set()
    count = 0
    first_of: dict[str, Path] = {}
    for file in sorted(folder.glob("*.txt")):
        path = first_of.setdefault(file.read_text(encoding="utf-8"), file)  # duplicates are left out
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if len(line) < tracer.calibration.least:
                continue
            span = max(tracer.trace(line).spans, key=lambda one: one.characters)
            if span.kind != "copied" or span.characters < len(line) or span.occurrences > 1:
                continue  # held out, left out, or one of several
            assert (span.source, span.line) == (str(path.resolve()), number)
            seen.add(path.name)
            count += 1
    assert count >= least
    return seen


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"deduplicate": True},
        {"drop_repeated_lines": 5},
        {"drop_openings": 5},
        {"drop_endings": 5},
        {"deduplicate": True, "drop_repeated_lines": 5, "drop_openings": 5, "drop_endings": 5},
    ],
    ids=lambda options: "+".join(options) or "plain",
)
def test_lines_of_many_documents(
    prepared: Prepare, tmp_path: Path, book: Path, tokenizer: str, options: dict[str, Any]
) -> None:
    texts = documents(book, 30)
    for number in range(30):
        lines = texts[number].splitlines(keepends=True)
        lines[20:20] = ["\n", FOOTER, "\n"]
        end = "" if number % 3 else "\n"
        texts[number] = HEADER + "".join(lines) + "Thank you for reading, and good night.\n" + end
    texts[7] = texts[3]  # a duplicate
    texts[9] = texts[9].rstrip("\n")
    folder = write_folder(tmp_path / "texts", texts)
    dataset = prepared(folder, tokenizer=tokenizer, **options)
    tracer = open_tracer([dataset])
    assert tracer.notes == ()
    assert dataset.manifest is not None
    seen = check_lines(tracer, folder, least=500)
    equal = 0 if options.get("deduplicate") else 2
    assert len(seen) >= dataset.manifest.train.documents - equal if tokenizer != "char" else len(seen) >= 20


def test_lines_of_what_was_taken_out_of_documents_and_tables(prepared: Prepare, tmp_path: Path, book: Path) -> None:
    lines = [line for line in book.read_text(encoding="utf-8").splitlines() if len(line) > 30][:400]
    folder = tmp_path / "texts"
    folder.mkdir()
    paragraphs = (page("".join(f"<p>{line}</p>" for line in part)) for part in (lines[:100], lines[100:200]))
    epub(folder / "book.epub", two=next(paragraphs), one=next(paragraphs))
    rows = "".join(json.dumps({"id": number, "text": line}) + "\n" for number, line in enumerate(lines[200:]))
    (folder / "notes.jsonl").write_text(rows, encoding="utf-8")
    tracer = open_tracer([prepared(folder)])
    places = [(folder / "book.epub", 2 * number + 1) for number in range(200)]  # with empty lines between paragraphs
    places += [(folder / "notes.jsonl", number + 1) for number in range(200)]
    found = 0
    for line, (path, number) in zip(lines, places, strict=True):
        span = max(tracer.trace(line).spans, key=lambda one: one.characters)
        if span.kind == "copied" and span.characters == len(line) and span.occurrences == 1:
            assert (span.source, span.line) == (str(path.resolve()), number)
            found += 1
    assert found > 200


def test_written_marks_divide_documents(prepared: Prepare, tmp_path: Path, book: Path) -> None:
    path = tmp_path / "texts"
    path.mkdir()
    (path / "all.txt").write_text("<|endoftext|>\n\n".join(documents(book, 30)), encoding="utf-8")
    tracer = open_tracer([prepared(path / "all.txt", end_of_text_marks=True)])
    check_lines(tracer, path, least=600)


def test_lines_of_windows_and_of_another_encoding(prepared: Prepare, tmp_path: Path, book: Path) -> None:
    path = tmp_path / "old.txt"
    path.write_bytes(book.read_text(encoding="utf-8").replace("\n", "\r\n").encode("utf-16"))
    tracer = open_tracer([prepared(path)])
    line = book.read_text(encoding="utf-8").split("\n")[1234]
    line = next(one for one in book.read_text(encoding="utf-8").split("\n")[1234:] if len(one) > 40)
    (span,) = tracer.trace(line).spans
    assert span.line == book.read_text(encoding="utf-8").split("\n").index(line) + 1


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_a_source_that_changed_is_named(prepared: Prepare, tmp_path: Path, book: Path, tokenizer: str) -> None:
    texts = documents(book, 8)
    folder = write_folder(tmp_path / "texts", texts)
    dataset = prepared(folder, tokenizer=tokenizer)
    for is_first in (True, False):  # also when the lines were found before the change
        tracer = open_tracer([dataset])
        if is_first:
            assert tracer.notes == ()
        (folder / "02.txt").write_text("Nothing that was there before.\n" * (1 + is_first))
        tracer = open_tracer([dataset])
        (note,) = tracer.notes
        assert note.startswith(f"changed since {dataset.folder} was prepared: {(folder / '02.txt').resolve()}")
        line = next(one for one in texts[2].split("\n") if len(one) > tracer.calibration.least)
        (span,) = tracer.trace(line).spans
        assert (span.kind, span.source) == ("copied", "training text")
        assert span.line == "".join(texts[:2]).count("\n") + texts[2].split("\n").index(line) + 1 + (2 * (1))
        check_lines(tracer, folder, least=100)
        for file in (tracer.index.folder / "origins.json", tracer.index.folder / "origins.bin"):
            file.write_bytes(b"damaged")


def test_a_source_that_is_gone_is_named(prepared: Prepare, book: Path) -> None:
    dataset = prepared(book)
    line = next(one for one in book.read_text(encoding="utf-8").split("\n") if len(one) > 40)
    book.unlink()
    tracer = open_tracer([dataset])
    assert tracer.notes == (f"not there any more: {book.resolve()}; their lines are those of the training text",)
    (span,) = tracer.trace(line).spans
    assert span.source == "training text"


def test_nanogpt_folders_have_lines_of_the_training_text(tmp_path: Path, book: Path) -> None:
    from quillgpt.data.dataset import open_dataset
    from quillgpt.text.tokenizers.char import CharTokenizer

    text = book.read_text(encoding="utf-8")
    tokenizer = CharTokenizer.from_text([text])
    folder = tmp_path / "data" / "book"
    folder.mkdir(parents=True)
    ids = tokenizer.encode(text).astype("<u2")
    ids[: len(ids) * 9 // 10].tofile(folder / "train.bin")
    ids[len(ids) * 9 // 10 :].tofile(folder / "val.bin")
    import pickle

    meta = {"vocab_size": tokenizer.vocab_size, "itos": dict(enumerate(tokenizer.characters))}
    meta["stoi"] = {letter: id for id, letter in meta["itos"].items()}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    tracer = open_tracer([open_dataset("book", tmp_path / "data")])
    lines = text.split("\n")
    number = next(number for number in range(500, 900) if len(lines[number]) > 40)
    (span,) = tracer.trace(lines[number]).spans
    assert (span.source, span.line) == ("training text", number + 1)
    assert tracer.notes == (f"{folder} does not say what it was made from, so lines are those of its training text",)


def test_two_data_sets_are_traced_together(prepared: Prepare, tmp_path: Path, book: Path) -> None:
    from quillgpt.data.prepare import prepare

    text = book.read_text(encoding="utf-8")
    parts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    halves = text.splitlines(keepends=True)[:1500], text.splitlines(keepends=True)[1500:]
    datasets = []
    for path, lines in zip(parts, halves, strict=True):
        path.write_text("".join(lines), encoding="utf-8")
        datasets.append(prepare([str(path)], data_dir=tmp_path / "data", tokenizer="byte").dataset)
    tracer = open_tracer(datasets)
    for path, lines in zip(parts, halves, strict=True):
        number = next(number for number in range(700, 900) if len(lines[number]) > 40)
        (span,) = tracer.trace(lines[number].strip()).spans
        assert (span.source, span.line) == (str(path.resolve()), number + 1)
    assert np.all(np.diff(tracer.origins.parts[:, 0]) > 0)
