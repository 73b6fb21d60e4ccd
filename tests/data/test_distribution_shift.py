import random

import numpy as np

from quillgpt.data.distribution_shift import distribution_shift


def tokens(letters, count, seed=0):
    return np.frombuffer(bytes(random.Random(seed).choices(letters, k=count)), dtype=np.uint8).astype(np.uint16)


def test_text_of_the_same_kind_is_no_other_kind():
    assert distribution_shift(tokens(range(20), 20_000), tokens(range(20), 2000, seed=1), 20) is None


def test_other_letters_are_another_kind_and_are_named():
    shift = distribution_shift(tokens(range(10), 20_000), tokens([0, 1, 2, 30, 31], 2000), 40)
    assert shift is not None
    assert {30, 31} == {*shift.examples[:2]}
    assert 0.35 < shift.unknown < 0.45
    assert shift.divergence > 2 * shift.usual


def test_what_differs_no_more_than_parts_of_the_training_text_is_no_other_kind():
    parts = [tokens([start, start + 1, start + 2], 2000, seed=start) for start in range(10)]
    assert distribution_shift(np.concatenate(parts[:9]), parts[9], 40) is None


def test_too_little_text_to_say_is_no_other_kind():
    assert distribution_shift(tokens([1, 2], 20_000), tokens([3], 100), 5) is None
    assert distribution_shift(tokens([1, 2], 20_000), tokens([3], 15_000), 5) is None
    assert distribution_shift(tokens([1, 2], 20_000), tokens([3], 0), 5) is None
