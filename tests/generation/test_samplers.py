import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quillgpt.config.schema import Sampling
from quillgpt.generation.samplers import candidates, draw_tokens, penalize_repetition, uniforms_of_samples
from tolerances import FLOAT32

ALL = Sampling(temperature=1.0, top_k=None)
# Far enough apart that the exponentials differ too, so that the ranking is the same by either.
SCORES = st.lists(st.integers(-64, 64).map(lambda eighths: eighths / 8), min_size=1, max_size=30, unique=True)


def probabilities(logits, sampling):
    """What `candidates` keeps, by id."""
    kept, ids = candidates(torch.tensor([logits], dtype=torch.float32), sampling)
    return {int(i): float(p) for i, p in zip(ids[0], kept[0], strict=True) if p > 0}


def reference(logits, *, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The same by the definitions: one filter after the other on a plain dictionary."""
    weights = {i: math.exp((score - max(logits)) / temperature) for i, score in enumerate(logits)}
    ranking = sorted(weights, key=weights.__getitem__, reverse=True)
    if top_k:
        ranking = ranking[:top_k]
    total = sum(weights[i] for i in ranking)
    shares = {i: weights[i] / total for i in ranking}
    if top_p is not None:
        nucleus, mass = {}, 0.0
        for i in ranking:
            if mass >= top_p:
                break
            nucleus[i] = shares[i]
            mass += shares[i]
        shares = nucleus
    if min_p is not None:
        shares = {i: share for i, share in shares.items() if share >= min_p * max(shares.values())}
    return {i: share / sum(shares.values()) for i, share in shares.items()}


@given(SCORES, st.floats(0.3, 3), st.none() | st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_temperature_and_top_k_are_the_definitions(logits, temperature, top_k):
    shares = probabilities(logits, Sampling(temperature=temperature, top_k=top_k))
    assert shares == pytest.approx(reference(logits, temperature=temperature, top_k=top_k), rel=1e-3, abs=1e-6)


SPREAD = [math.log(weight) for weight in (0.05, 0.4, 0.1, 0.25, 0.2)]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.01, {1}), (0.39, {1}), (0.5, {1, 3}), (0.7, {1, 3, 4}), (0.9, {1, 2, 3, 4}), (1.0, {0, 1, 2, 3, 4})],
)
def test_top_p_keeps_the_smallest_set_that_has_the_probability(top_p, kept):
    shares = probabilities(SPREAD, Sampling(temperature=1.0, top_k=None, top_p=top_p))
    assert shares.keys() == kept
    assert shares == pytest.approx(reference(SPREAD, top_p=top_p), rel=1e-5)


def test_top_p_is_enough_once_it_is_reached():
    kept = probabilities([0.0] * 4, Sampling(temperature=1.0, top_k=None, top_p=0.5))
    assert [*kept.values()] == [0.5, 0.5]


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, {0, 1, 2, 3, 4}), (0.2, {1, 2, 3, 4}), (0.6, {1, 3}), (1.0, {1})])
def test_min_p_keeps_what_is_likely_beside_the_likeliest(min_p, kept):
    shares = probabilities(SPREAD, Sampling(temperature=1.0, top_k=None, min_p=min_p))
    assert shares.keys() == kept
    assert shares == pytest.approx(reference(SPREAD, min_p=min_p), rel=1e-5)


def test_filters_work_one_after_the_other():
    sampling = Sampling(temperature=0.7, top_k=4, top_p=0.9, min_p=0.3)
    expected = reference(SPREAD, temperature=0.7, top_k=4, top_p=0.9, min_p=0.3)
    assert 1 < len(expected) < 4
    assert probabilities(SPREAD, sampling) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-30])
def test_temperature_zero_takes_the_likeliest(temperature):
    logits = [1000.0, -1000.0, 1000.5, 3.0]
    assert probabilities(logits, Sampling(temperature=temperature, top_k=None)) == {2: 1.0}


def test_repetition_penalty_is_ctrls():
    logits = torch.tensor([[2.0, -2.0, 3.0, -3.0]])
    seen = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(
        penalize_repetition(logits, seen, 1.25), torch.tensor([[2 / 1.25, -2 * 1.25, 3.0, -3.0]]), **FLOAT32
    )


def test_tokens_are_drawn_as_often_as_they_are_likely():
    kept, ids = candidates(torch.tensor([SPREAD]), ALL)
    count = 50_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count, dtype=np.float32))
    drawn = draw_tokens(kept.expand(count, -1), ids.expand(count, -1), uniforms).bincount(minlength=5).double()
    expected = torch.tensor(SPREAD).exp().double() * count
    chi_square = ((drawn - expected) ** 2 / expected).sum()
    assert chi_square < 18.5  # 4 degrees of freedom: passed by 99.9 % of honest draws


UNIFORMS = (0.0, 0.5, float(np.nextafter(np.float32(1), np.float32(0))), 1.0)
"""Up to 1, which a device that sums in another order can make of the largest number below it."""


@given(st.lists(st.floats(-30, 8, width=32), min_size=2, max_size=50), st.floats(0.05, 1), st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_candidate_that_was_cut_is_never_drawn(logits, top_p, min_p):
    kept, ids = candidates(torch.tensor([logits]), Sampling(temperature=1.0, top_k=None, top_p=top_p, min_p=min_p))
    allowed = set(ids[kept > 0].tolist())
    for uniform in UNIFORMS:
        assert int(draw_tokens(kept, ids, torch.tensor([uniform]))) in allowed


def test_random_numbers_depend_on_seed_and_sample_alone():
    def numbers_of(seed, *samples):
        drawn = uniforms_of_samples(seed, samples, torch.device("cpu"))
        return torch.stack([next(drawn) for _ in range(600)], dim=1)

    [numbers] = numbers_of(3, 4)
    assert torch.equal(numbers_of(3, 2, 4, 9)[1], numbers)
    assert torch.equal(numbers, torch.from_numpy(np.random.default_rng([3, 4]).random(600, dtype=np.float32)))
    for other in (*numbers_of(3, 5), *numbers_of(4, 3)):
        assert not torch.equal(numbers, other)
    assert ((numbers >= 0) & (numbers < 1)).all()


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-45, 1e-30, 1e-20, 1e-7])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_the_lowest_temperature_takes_the_likeliest(temperature, scale):
    logits = torch.tensor([[0.5, -2.0, 1.5, 1.25], [3.0, 2.0, -1.0, 2.5]]) * scale
    kept, ids = candidates(logits, Sampling(temperature=temperature, top_k=None))
    assert draw_tokens(kept, ids, torch.tensor([0.99, 0.0])).tolist() == [2, 0]


@pytest.mark.parametrize("setting", [{"top_p": 5e-324}, {"top_p": 1e-9}, {"min_p": 1.0}, {"top_k": 1}])
def test_the_likeliest_token_stays_under_every_filter(setting):
    kept, ids = candidates(
        torch.tensor([[0.5, -2.0, 1.5]]), Sampling(**({"temperature": 1.0, "top_k": None} | setting))
    )
    assert draw_tokens(kept, ids, torch.tensor([0.99])).tolist() == [2]


def test_the_highest_temperature_makes_all_tokens_equally_likely():
    kept, _ = candidates(torch.tensor([[0.5, -2.0, 1.5, 1.25]]), Sampling(temperature=1e308, top_k=None))
    assert kept.tolist() == [[0.25] * 4]


@pytest.mark.parametrize("sampling", [ALL, Sampling(temperature=0.0), Sampling(top_k=3, top_p=0.9, min_p=0.1)])
def test_logits_that_are_nan_are_marked(sampling):
    logits = torch.zeros(3, 7)
    logits[1, 4] = math.nan
    taken = draw_tokens(*candidates(logits, sampling), torch.full((3,), 0.5))
    assert int(taken[1]) == -1
    assert bool((taken[[0, 2]] >= 0).all())
