"""A validation split that is a copy of the training split is noticed; no other is."""

import time

import numpy as np
import pytest

from quillgpt.data import overlap
from quillgpt.data.overlap import WINDOW, copied_share, window_hashes


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
    monkeypatch.setattr(overlap, "MOST_TOKENS", 10_000)
    assert copied_share(TRAIN, TRAIN) == pytest.approx(0.2, abs=0.05)


def test_a_search_of_many_tokens_is_quick():
    train = tokens(2_000_000)
    began = time.monotonic()
    assert copied_share(train, train) == 1.0
    assert time.monotonic() - began < 10
