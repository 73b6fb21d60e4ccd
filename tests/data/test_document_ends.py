"""Where the documents of a split end."""

import numpy as np
import pytest

from quillgpt.data import document_ends as module
from quillgpt.data.dataset import open_dataset
from quillgpt.data.document_ends import DocumentEnds, document_ends
from quillgpt.data.prepare import prepare

TEXTS = [f"Letter {number}.\n{'It rains again. ' * (1 + number % 3)}Yours, N." for number in range(30)]


def opened(tmp_path, texts, tokenizer, **options):
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "texts" / f"{number:03}.txt").write_text(text)
    prepare([str(tmp_path / "texts")], data_dir=tmp_path, dataset="letters", tokenizer=tokenizer, **options)
    return open_dataset("letters", tmp_path)


def documents(dataset, split):
    """The texts of a split, cut after each end of a document."""
    tokens = dataset.train if split == "train" else dataset.val
    marks = document_ends(dataset, split).within(0, len(tokens))
    return [dataset.tokenizer.decode(part) for part in np.split(tokens, 1 + np.flatnonzero(marks)) if len(part)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_end_of_text_ends_documents(split, tmp_path):
    dataset = opened(tmp_path, TEXTS, "byte")
    found = documents(dataset, split)
    assert all(text.startswith("Letter ") for text in found)
    assert len(found) == getattr(dataset.manifest, split).documents > 1


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_blank_lines_end_documents_where_there_is_no_end_of_text(split, end, tmp_path):
    dataset = opened(tmp_path, [text + end for text in TEXTS], "char")
    found = documents(dataset, split)
    assert all(text.startswith("Letter ") for text in found)
    assert len(found) == getattr(dataset.manifest, split).documents > 1


def test_blank_lines_within_documents_leave_their_ends_unknown(tmp_path):
    dataset = opened(tmp_path, [text.replace(".\n", ".\n\n") for text in TEXTS], "char")
    assert document_ends(dataset, "val") is None


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_one_text_has_no_documents(tokenizer, tmp_path):
    (tmp_path / "one.txt").write_text("\n\n".join(TEXTS))
    prepare([str(tmp_path / "one.txt")], data_dir=tmp_path, tokenizer=tokenizer)
    dataset = open_dataset("one", tmp_path)
    assert document_ends(dataset, "train") is None
    assert document_ends(dataset, "val") is None


@pytest.mark.parametrize("blank_lines", [False, True])
def test_ends_are_the_same_however_the_split_is_cut(blank_lines, monkeypatch):
    monkeypatch.setattr(module, "TOKENS_AT_ONCE", 3)
    tokens = np.random.default_rng(0).integers(0, 2, 60).astype(np.uint16)
    ends = DocumentEnds(tokens, 1, blank_lines=blank_lines)
    whole = ends.within(0, 60)
    if blank_lines:
        text = "".join(map(str, tokens))
        assert np.flatnonzero(whole).tolist() == [i for i in range(1, 59) if text[i - 1 : i + 2] == "110"]
    else:
        assert np.array_equal(whole, tokens == 1)
    assert ends.count() == whole.sum()
    for first in range(60):
        for stop in range(first, 61):
            assert np.array_equal(ends.within(first, stop), whole[first:stop])
            assert ends.any_within(first, stop) == whole[first:stop].any()
