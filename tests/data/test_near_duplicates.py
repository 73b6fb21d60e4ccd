"""Documents that are nearly equal are found, and no others; the data set stays as it is."""

from __future__ import annotations

import random
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from quillgpt.data import document_stream, near_duplicates
from quillgpt.data.document_stream import Documents
from quillgpt.data.minhash import PLACES, RUN, runs_of, signer
from quillgpt.data.near_duplicates import NearDuplicates, find_near_duplicates, rows_of_a_band
from quillgpt.data.prepare import prepare
from quillgpt.errors import UserError
from quillgpt.text.sources.documents import SEPARATOR, Source

DRAW = random.Random(8)
WORDS = ["".join(DRAW.choices("etaoinshrdlu", k=DRAW.randint(2, 9))) for _ in range(3000)]


def changed(words: list[str], changes: int) -> list[str]:
    new = list(words)
    for place in DRAW.sample(range(len(words)), changes):
        new[place] = DRAW.choice(WORDS)
    return new


def some_texts() -> list[str]:
    """Return 60 unrelated documents, and 40 that come from one of the first ten by up to 60 changed words."""
    originals = [DRAW.choices(WORDS, k=200) for _ in range(60)]
    copies = [changed(originals[number % 8], (0, 1, 2, 9, 60)[number % 5]) for number in range(40)]
    return [" ".join(words) for words in originals + copies]


def find(texts: list[str], folder: Path, least: float = 0.8, **options: int) -> NearDuplicates:
    folder.mkdir(parents=True)
    path = folder / "texts.txt"
    path.write_text("".join(text + SEPARATOR for text in texts), encoding="utf-8", newline="")
    documents = Documents([Source("texts", "texts", path, holds_many=True)], 1 << 16)
    return find_near_duplicates([documents], least, folder=folder, **options)


def numbers(found: NearDuplicates) -> list[list[int]]:
    """Return the indices of the documents in each group."""
    return [[int(member.name.rpartition(" ")[2].replace(",", "")) - 1 for member in group] for group in found.groups]


def test_pairs_are_those_that_a_comparison_of_all_runs_finds(tmp_path: Path) -> None:
    texts = some_texts()
    runs = [{tuple(words[at : at + RUN]) for at in range(196)} for words in map(str.split, texts)]
    found = find(texts, tmp_path / "found")
    assert found.documents == 100
    group_of = {document: group[0] for group in numbers(found) for document in group}
    alike = 0
    for one in range(100):
        for two in range(one):
            similarity = len(runs[one] & runs[two]) / len(runs[one] | runs[two])
            if similarity > 0.9:
                assert group_of[one] == group_of[two]
                alike += 1
            elif similarity < 0.3:
                assert one not in group_of or group_of[one] != group_of.get(two)
    assert alike > 10
    for group, members in zip(numbers(found), found.groups, strict=True):
        for document, member in zip(group, members, strict=True):
            similarity = len(runs[document] & runs[group[0]]) / len(runs[document] | runs[group[0]])
            assert member.similarity == pytest.approx(similarity, abs=0.15)
            assert texts[document].startswith(member.beginning)


@pytest.mark.parametrize("change", ["at once", "parts", "processes"])
def test_what_is_found_does_not_depend_on_how_it_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    texts = some_texts()
    usual = find(texts, tmp_path / "usual", num_proc=1)
    if change == "at once":
        monkeypatch.setattr(document_stream, "DOCUMENTS_AT_ONCE", 10)
        monkeypatch.setattr(near_duplicates, "COMPARED_AT_ONCE", 2)
        monkeypatch.setattr(near_duplicates, "JOB_PARTS", 3)
    if change == "parts":
        monkeypatch.setattr(near_duplicates, "PART_CHARACTERS", 700)
        again = find(texts, tmp_path / "again")
        assert {group[0] for group in numbers(again)} & {group[0] for group in numbers(usual)}
        return
    monkeypatch.setattr(near_duplicates, "JOB_CHARACTERS", 10_000)
    assert find(texts, tmp_path / "again", num_proc=2 if change == "processes" else 1) == usual


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("The cat sat on the mat, and so on and on.", "the CAT sat -- on the mat; and so on and on"),
        ("天地玄黄宇宙洪荒日月盈昃辰宿列张", "天地玄黄,宇宙洪荒。日月盈昃,辰宿列张"),
        ("Привет, мир, как дела сегодня", "привет мир как дела сегодня"),
        ("สวัสดีชาวโลก", "สวัสดี ชาวโลก"),
        ("one", "One!"),
        ("a b", "a  b"),
    ],
)
def test_case_and_punctuation_do_not_count(tmp_path: Path, one: str, two: str) -> None:
    others = [" ".join(DRAW.choices(WORDS, k=20)) for _ in range(5)]
    assert numbers(find([*others, one, two], tmp_path / "found")) == [[5, 6]]


def test_documents_without_words_and_no_documents_are_alike_to_none(tmp_path: Path) -> None:
    assert find(["...", "!!!", "...", "   "], tmp_path / "found") == NearDuplicates(4, [])
    assert find([], tmp_path / "none") == NearDuplicates(0, [])


def test_runs_are_hashed_by_their_words() -> None:
    assert len(runs_of("a b c d e f")) == 2
    assert len(runs_of("a b c d e a b c d e")) == 5
    assert set(runs_of("a b c d e")) < set(runs_of("a b c d e f"))
    assert len(runs_of("a b")) == 1
    assert not len(runs_of("?!"))
    (signature,) = signer()(["a b c d e f"])
    assert signature.shape == (PLACES,)


@pytest.mark.parametrize("least", [0.1, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_documents_that_are_just_similar_enough_are_nearly_always_compared(least: float) -> None:
    rows = rows_of_a_band(least)
    assert 1 - (1 - least**rows) ** (PLACES // rows) >= 0.95


def test_very_many_copies_take_little_time(tmp_path: Path) -> None:
    words = DRAW.choices(WORDS, k=40)
    texts = [" ".join(changed(words, number % 2)) for number in range(3000)]
    began = time.monotonic()
    found = find(texts, tmp_path / "found", least=0.6)
    assert sum(map(len, found.groups)) > 2900
    assert time.monotonic() - began < 60


def test_a_document_takes_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_stream, "DOCUMENTS_AT_ONCE", 500)

    def peak(count: int) -> int:
        texts = [" ".join(DRAW.choices(WORDS, k=20)) for _ in range(count)]
        path = tmp_path / f"{count}.txt"
        path.write_text("".join(text + SEPARATOR for text in texts))
        documents = Documents([Source("texts", "texts", path, holds_many=True)], 1 << 14)
        del texts
        tracemalloc.start()
        find_near_duplicates([documents], 0.8, folder=tmp_path)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    monkeypatch.setattr(near_duplicates, "JOB_PARTS", 200)
    peak(400)
    assert peak(2500) - peak(1000) < 1500 * 40


def test_preparing_lists_them_for_a_new_data_set_and_for_one_that_is_there(tmp_path: Path) -> None:
    words = DRAW.choices(WORDS, k=100)
    (tmp_path / "tales.txt").write_text(
        "<|endoftext|>".join(" ".join(text) for text in (words, DRAW.choices(WORDS, k=100), changed(words, 1)))
    )
    (tmp_path / "val.txt").write_text(" ".join(changed(words, 1)))
    made = [
        prepare(
            [str(tmp_path / "tales.txt")],
            data_dir=tmp_path / "data",
            val=str(tmp_path / "val.txt"),
            end_of_text_marks=True,
            near_duplicates=0.6,
        )
        for _ in range(2)
    ]
    assert [preparation.reused for preparation in made] == [False, True]
    assert made[0].near_duplicates == made[1].near_duplicates
    assert made[0].near_duplicates is not None
    ((first, second, third),) = made[0].near_duplicates.groups
    tales = str(tmp_path / "tales.txt")
    assert [member.name for member in (first, second, third)] == [
        f"{tales}, document 1",
        f"{tales}, document 3",
        str(tmp_path / "val.txt"),
    ]
    assert made[0].manifest.train.documents == 3


def test_without_the_extra_it_is_named_before_the_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    (tmp_path / "a.txt").write_text("a text " * 100)
    with pytest.raises(UserError, match=r"--near_duplicates needs the package datasketch.*quillgpt\[dedup\]"):
        prepare([str(tmp_path / "a.txt")], data_dir=tmp_path / "data", near_duplicates=0.8)
    assert not (tmp_path / "data").exists()


def test_the_estimate_of_similarity_is_right_on_average() -> None:
    sign = signer()
    words = DRAW.choices(WORDS, k=150)
    errors = []
    for changes in (1, 3, 6, 10, 20) * 4:
        texts = [" ".join(words), " ".join(changed(words, changes))]
        one, two = (set(runs_of(text).tolist()) for text in texts)
        signatures = sign(texts)
        errors.append((signatures[0] == signatures[1]).mean() - len(one & two) / len(one | two))
    assert abs(np.mean(errors)) < 0.04
