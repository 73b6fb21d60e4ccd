"""Data sets of many documents: their split, their report, and their cleaning."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quillgpt.data.dataset import Dataset
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import DataError

END = "<|endoftext|>"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def make_folder(folder: Path, bodies: list[str]) -> str:
    folder.mkdir(parents=True)
    for number, body in enumerate(bodies):
        (folder / f"{number:03d}.txt").write_text(body, encoding="utf-8")
    return str(folder)


def bodies(count: int) -> list[str]:
    return [f"Chapter\n\nStory number {number} goes {'on and ' * (5 + number % 7)}on.\n" for number in range(count)]


def split_texts(dataset: Dataset) -> tuple[list[str], list[str]]:
    train, val = (dataset.tokenizer.decode(tokens).split(END) for tokens in (dataset.train, dataset.val))
    assert train.pop() == ""
    assert val.pop() == ""
    return train, val


def test_enough_documents_are_split_between_them(tmp_path: Path, data_dir: Path) -> None:
    texts = bodies(40)
    done = prepare([make_folder(tmp_path / "tales", texts)], data_dir=data_dir, tokenizer="byte")
    train, val = split_texts(done.dataset)
    assert sorted(train + val) == sorted(texts)
    assert train == [text for text in texts if text in train]
    assert val != texts[-len(val) :]
    assert 0.05 < len("".join(val)) / len("".join(texts)) < 0.15
    assert done.manifest.split_by == "documents"
    assert (done.manifest.train.documents, done.manifest.val.documents) == (len(train), len(val))
    again = prepare([str(tmp_path / "tales")], data_dir=data_dir, dataset="again", tokenizer="byte", chunk_characters=7)
    assert again.dataset.fingerprint == done.dataset.fingerprint


def test_documents_without_an_end_of_text_stand_apart(tmp_path: Path, data_dir: Path) -> None:
    texts = bodies(40)
    done = prepare([make_folder(tmp_path / "tales", texts)], data_dir=data_dir, tokenizer="char")
    train, val = (done.dataset.tokenizer.decode(tokens) for tokens in (done.dataset.train, done.dataset.val))
    documents = train.split("\n\nChapter"), val.split("\n\nChapter")
    assert (len(documents[0]), len(documents[1])) == (done.manifest.train.documents, done.manifest.val.documents)
    assert sum(map(len, (train, val))) == sum(map(len, texts)) + len(texts) - 2


def test_few_documents_are_cut_at_the_end(tmp_path: Path, data_dir: Path) -> None:
    texts = bodies(4)
    done = prepare([make_folder(tmp_path / "tales", texts)], data_dir=data_dir, tokenizer="byte", val_fraction=0.2)
    assert done.manifest.split_by == "characters"
    joined = done.dataset.tokenizer.decode(done.dataset.train) + done.dataset.tokenizer.decode(done.dataset.val)
    assert joined == "".join(text + END for text in texts)


def test_what_is_noticed_is_reported_and_can_be_left_out(tmp_path: Path, data_dir: Path) -> None:
    texts = [*bodies(20), bodies(20)[3], bodies(20)[3]]
    folder = make_folder(tmp_path / "tales", texts)
    report = prepare([folder], data_dir=data_dir, tokenizer="byte").manifest.report
    assert report is not None
    assert (report.documents, report.duplicate_documents, report.shared_documents) == (22, 2, 0)
    assert (report.examples[0].line, report.examples[0].documents) == ("Chapter", 22)

    clean = prepare([folder], data_dir=data_dir, tokenizer="byte", deduplicate=True, drop_repeated_lines=20)
    assert not clean.reused
    train, val = split_texts(clean.dataset)
    assert sorted(train + val) == sorted(text.removeprefix("Chapter\n") for text in bodies(20))
    assert clean.manifest.report is not None
    assert clean.manifest.report.model_copy(update={"copied_share": report.copied_share}) == report
    assert prepare([folder], data_dir=data_dir, tokenizer="byte", deduplicate=True, drop_repeated_lines=20).reused
    assert ensure_dataset("tales", data_dir=data_dir).fingerprint == clean.dataset.fingerprint
    (tmp_path / "tales" / "000.txt").write_text("Chapter\nAnother beginning.\n")
    changed = ensure_dataset("tales", data_dir=data_dir)
    assert changed.fingerprint != clean.dataset.fingerprint
    assert not any("Chapter" in text for split in split_texts(changed) for text in split)


def test_equal_documents_never_stand_on_both_sides(tmp_path: Path, data_dir: Path) -> None:
    dataset = prepare(
        [make_folder(tmp_path / "tales", bodies(15) * 3)], data_dir=data_dir, tokenizer="byte", val_fraction=0.3
    ).dataset
    train, val = split_texts(dataset)
    assert val
    assert not set(train) & set(val)


def test_validation_documents_that_are_trained_on_are_noticed_and_left_out(tmp_path: Path, data_dir: Path) -> None:
    folder, val = make_folder(tmp_path / "tales", bodies(12)), make_folder(tmp_path / "val", bodies(14)[10:])
    done = prepare([folder], data_dir=data_dir, tokenizer="byte", val=val)
    assert done.manifest.report is not None
    assert (done.manifest.split_by, done.manifest.report.shared_documents) == ("given", 2)
    clean = prepare([folder], data_dir=data_dir, tokenizer="byte", val=val, deduplicate=True)
    assert clean.manifest.report is not None
    assert clean.manifest.report.shared_documents == 0
    assert split_texts(clean.dataset) == (bodies(10), bodies(14)[10:])
    with pytest.raises(DataError, match="nothing is left of the training text"):
        prepare([val], data_dir=data_dir, dataset="x", tokenizer="byte", val=val, deduplicate=True)


def test_a_cut_through_the_text_reports_shared_documents(tmp_path: Path, data_dir: Path) -> None:
    texts = ["first " * 30, "second " * 30, "first " * 30]
    done = prepare([make_folder(tmp_path / "three", texts)], data_dir=data_dir, tokenizer="byte", val_fraction=0.4)
    assert done.manifest.report is not None
    assert done.manifest.report.shared_documents == 1


def test_one_document_has_no_repeated_lines_to_drop(tmp_path: Path, data_dir: Path, capsys) -> None:
    (tmp_path / "book.txt").write_text("Page\nword\n" * 50)
    plain = prepare([str(tmp_path / "book.txt")], data_dir=data_dir)
    dropped = prepare([str(tmp_path / "book.txt")], data_dir=data_dir, dataset="b", drop_repeated_lines=2)
    assert dropped.dataset.fingerprint == plain.dataset.fingerprint
    assert "there is only one" in capsys.readouterr().err


def test_texts_of_one_name_do_not_replace_each_other(tmp_path: Path, data_dir: Path) -> None:
    for author in ("kafka", "musil"):
        (tmp_path / author).mkdir()
        (tmp_path / author / "diary.txt").write_text(f"{author} wrote this. " * 20)
    first = prepare([str(tmp_path / "kafka/diary.txt")], data_dir=data_dir).dataset
    with pytest.raises(DataError, match=r"diary was made from .*kafka.*diary.txt.*--dataset=diary_2"):
        prepare([str(tmp_path / "musil/diary.txt")], data_dir=data_dir)
    assert ensure_dataset("diary", data_dir=data_dir).fingerprint == first.fingerprint
    replaced = prepare([str(tmp_path / "musil/diary.txt")], data_dir=data_dir, dataset="diary", replace=True)
    assert "musil" in replaced.dataset.tokenizer.decode(replaced.dataset.train)
    (tmp_path / "musil/diary.txt").rename(tmp_path / "diary.txt")
    assert not prepare([str(tmp_path / "diary.txt")], data_dir=data_dir, val_fraction=0.2).reused
    (tmp_path / "shakespeare.txt").write_text("Not by him. " * 20)
    with pytest.raises(DataError, match="is the folder of a recipe"):
        prepare([str(tmp_path / "shakespeare.txt")], data_dir=data_dir)


def write_stories(folder: Path, *, val: bool) -> None:
    (folder / "data").mkdir(parents=True)
    for split, texts in (("train", bodies(30)), ("validation", ["A story to judge by.", "Another."])):
        if split == "train" or val:
            pq.write_table(pa.table({"text": texts}), folder / f"data/{split}-00000-of-00001.parquet")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUILL_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror" / "hub"


def test_a_corpus_of_the_hub_is_prepared_by_its_name(mirror: Path, data_dir: Path) -> None:
    write_stories(mirror / "roneneldan/TinyStories", val=True)
    with pytest.raises(DataError, match=r"stories for small children.*quill prepare tinystories"):
        ensure_dataset("TinyStories", data_dir=data_dir)
    done = prepare(["TinyStories"], data_dir=data_dir, tokenizer="byte")
    assert done.dataset.folder == data_dir / "tinystories"
    assert split_texts(done.dataset) == (bodies(30), ["A story to judge by.", "Another."])
    assert prepare(["tinystories"], data_dir=data_dir, tokenizer="byte").reused
    assert ensure_dataset("TinyStories", data_dir=data_dir).fingerprint == done.dataset.fingerprint
    held_out = prepare(["tinystories"], data_dir=data_dir, tokenizer="byte", val_fraction=0.2)
    assert held_out.manifest.split_by == "documents"
    train, val = split_texts(held_out.dataset)
    assert sorted(train + val) == sorted(bodies(30))
    assert ensure_dataset("tinystories", data_dir=data_dir).fingerprint == held_out.dataset.fingerprint


def test_a_prepared_corpus_needs_its_text_no_more(
    mirror: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_stories(mirror / "Salesforce/wikitext", val=True)
    done = prepare(["wiki"], data_dir=data_dir, tokenizer="byte")
    assert done.dataset.name == "wikitext"
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.delenv("QUILL_MIRROR")
    assert ensure_dataset("wiki", data_dir=data_dir).fingerprint == done.dataset.fingerprint


def test_openwebtext_holds_out_what_nanogpt_does(mirror: Path, data_dir: Path) -> None:
    folder = mirror / "Skylion007/openwebtext"
    folder.mkdir(parents=True)
    texts = [f"page {number:04d} " * (1 + number % 9) for number in range(6000)]
    pq.write_table(pa.table({"text": texts}), folder / "train.parquet")
    manifest = prepare(["openwebtext"], data_dir=data_dir, tokenizer="byte").manifest
    assert manifest.val_fraction == 0.0005
    assert manifest.val.documents == 3
    assert manifest.train.documents == 5997


def test_a_data_set_of_rows_is_named_after_its_source(tmp_path: Path, data_dir: Path) -> None:
    write_stories(tmp_path / "My Stories", val=False)
    done = prepare([f"hf:{tmp_path / 'My Stories'}:text"], data_dir=data_dir, tokenizer="byte", val_fraction=0.1)
    assert done.dataset.name == "my_stories"
    assert done.manifest.split_by == "documents"
    assert ensure_dataset("my_stories", data_dir=data_dir).fingerprint == done.dataset.fingerprint


def test_merges_are_learned_from_what_is_trained_on(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "book.txt").write_text("abab " * 180 + "xyxy " * 20)
    tokenizer = prepare([str(tmp_path / "book.txt")], data_dir=data_dir, tokenizer="bpe:260").dataset.tokenizer
    assert len(tokenizer.encode("abab")) < 4
    assert len(tokenizer.encode("xyxy")) == 4


def test_a_data_set_whose_text_is_no_file_is_not_replaced_by_another_text(tmp_path: Path, data_dir: Path) -> None:
    write_stories(tmp_path / "tales", val=False)
    rows = prepare([f"hf:{tmp_path / 'tales'}"], data_dir=data_dir, tokenizer="byte")
    assert rows.manifest.val_fraction == 0.1
    make_folder(tmp_path / "other" / "tales", bodies(12))
    with pytest.raises(DataError, match=r"tales was made from .hf:.*--dataset=tales_2"):
        prepare([str(tmp_path / "other" / "tales")], data_dir=data_dir, tokenizer="byte")
