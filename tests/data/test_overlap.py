"""A validation split that is a copy of the training split is noticed; no other is."""

import random
import time
import tracemalloc

import numpy as np
import pytest

from quillgpt.data import overlap
from quillgpt.data.overlap import WINDOW, TokensOfFile, copied_share, window_hashes
from quillgpt.data.prepare import prepare


def tokens(count, seed=0, vocabulary=50):
    return np.random.default_rng(seed).integers(0, vocabulary, count).astype(np.uint16)


TRAIN = tokens(50_000)


@pytest.mark.parametrize(
    ("val", "share"),
    [
        (TRAIN, 1.0),
        (TRAIN[20_000:21_000], 1.0),
        (TRAIN[-40:], 1.0),
        (TRAIN[:WINDOW], 1.0),
        (TRAIN[7:1007][::-1].copy(), 0.0),
        (tokens(5000, seed=1), 0.0),
        (np.concatenate([TRAIN[:3000], tokens(3000, seed=2)]), 0.5),
        (TRAIN[: WINDOW - 1], 0.0),
        (TRAIN[:0], 0.0),
    ],
    ids=["all", "part", "end", "window", "reversed", "other", "half", "too short", "nothing"],
)
def test_the_share_is_what_was_copied(val, share):
    assert copied_share(TRAIN, val) == pytest.approx(share, abs=0.01)


def test_equal_windows_have_equal_hashes_and_others_have_not():
    hashes = window_hashes(TRAIN)
    assert len(hashes) == len(TRAIN) - WINDOW + 1
    assert len(np.unique(hashes)) == len(hashes)
    assert np.array_equal(hashes[100:200], window_hashes(TRAIN[100 : 200 + WINDOW - 1]))
    assert len(np.unique(window_hashes(np.zeros(1000, np.uint16)))) == 1
    assert window_hashes(np.array([1] + [0] * 31, np.uint16)) != window_hashes(np.array([0] * 31 + [1], np.uint16))


def test_a_copy_is_found_across_the_parts_that_are_looked_at(monkeypatch):
    monkeypatch.setattr(overlap, "PART_TOKENS", 100)
    assert copied_share(TRAIN, TRAIN[150:1150]) == 1.0


def test_of_a_long_text_only_a_bounded_part_is_searched(monkeypatch):
    monkeypatch.setattr(overlap, "PART_TOKENS", 1000)
    assert copied_share(TRAIN, TRAIN, most_tokens=10_000) == pytest.approx(0.2, abs=0.05)
    assert copied_share(TRAIN, TRAIN) == 1.0


def test_all_of_a_long_text_is_searched_in_memory_that_does_not_grow(tmp_path):
    def peak(count):
        tokens(count).tofile(tmp_path / "train.bin")
        train = TokensOfFile(tmp_path / "train.bin", "uint16")
        assert len(train) == count
        tracemalloc.start()
        assert copied_share(train, train[count - 5000 : count]) == 1.0
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    copied_share(TRAIN, TRAIN)
    assert peak(1_600_000) < 1.1 * peak(200_000)


def test_preparing_searches_all_of_the_text_and_training_uses_the_result(tmp_path, monkeypatch, capsys):
    words = "".join(random.Random(4).choices("abcdefgh \n", k=30_000))
    (tmp_path / "book.txt").write_text(words)
    (tmp_path / "val.txt").write_text(words[29_000:] + words[1000:3000][::-1])
    monkeypatch.setattr(overlap, "PART_TOKENS", 1000)
    prepared = prepare([str(tmp_path / "book.txt")], data_dir=tmp_path, val=str(tmp_path / "val.txt"))
    assert prepared.manifest.report.copied_share == pytest.approx(1 / 3, abs=0.02)
    monkeypatch.setattr(overlap, "copied_share", lambda *_, **__: pytest.fail("searched again"))
    monkeypatch.setattr(overlap, "MUCH", 0.3)
    overlap.warn_of_copy(prepared.dataset)
    assert "33% of the validation text of book is also in its training text" in capsys.readouterr().err


def test_a_search_of_many_tokens_is_quick():
    train = tokens(2_000_000)
    began = time.monotonic()
    assert copied_share(train, train) == 1.0
    assert time.monotonic() - began < 10
