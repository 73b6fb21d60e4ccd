"""Audio is cut where it is quietest, into pieces that are short enough and cover all of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.speech.recognition.pieces import WINDOW, cuts, quietest


@given(length=st.integers(0, 20_000), most=st.integers(700, 5_000), tail=st.integers(1, 700))
def test_pieces_cover_everything_and_are_short_enough(length: int, most: int, tail: int) -> None:
    samples = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    bounds = cuts(samples, most, tail)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == length
    assert all(before[1] == after[0] for before, after in itertools.pairwise(bounds))
    assert all(end - start <= most for start, end in bounds)
    assert all(end > start for start, end in bounds[:-1])


@pytest.mark.parametrize("pause", [2_000, 3_123, 4_500])
def test_the_cut_lies_in_the_pause(pause: int) -> None:
    samples = np.ones(6_000, dtype=np.float32)
    samples[pause : pause + 2 * WINDOW] = 0
    assert pause <= quietest(samples, 1_000, 6_000) <= pause + 2 * WINDOW


def test_of_pauses_that_are_equally_quiet_the_last_is_taken() -> None:
    assert quietest(np.zeros(5_000, dtype=np.float32), 0, 5_000) >= 5_000 - 2 * WINDOW
