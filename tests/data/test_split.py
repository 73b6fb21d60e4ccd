import numpy as np
import pytest

from quillgpt.data.split import FEWEST_DOCUMENTS, hold_out


def random_documents(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(500, 2000, count), generator.integers(0, 2**63, count).astype(np.uint64)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("count", [200, 5000])
def test_share_is_about_what_was_asked_for(count: int, fraction: float) -> None:
    lengths, hashes = random_documents(count)
    held_out = hold_out(lengths, hashes, fraction)
    assert held_out is not None
    assert lengths[held_out].sum() / lengths.sum() == pytest.approx(fraction, rel=0.3)


def test_choice_does_not_depend_on_order() -> None:
    lengths, hashes = random_documents(100)
    order = np.random.default_rng(1).permutation(100)
    held_out, shuffled = hold_out(lengths, hashes, 0.1), hold_out(lengths[order], hashes[order], 0.1)
    assert held_out is not None
    assert shuffled is not None
    assert set(hashes[held_out]) == set(hashes[order][shuffled])


def test_another_document_hardly_changes_the_choice() -> None:
    lengths, hashes = random_documents(201)
    before, after = hold_out(lengths[:200], hashes[:200], 0.1), hold_out(lengths, hashes, 0.1)
    assert before is not None
    assert after is not None
    assert np.sum(before != after[:200]) <= 2


def test_equal_documents_stay_together() -> None:
    lengths, hashes = random_documents(30)
    held_out = hold_out(np.tile(lengths, 3), np.tile(hashes, 3), 0.3)
    assert held_out is not None
    assert np.array_equal(held_out[:30], held_out[30:60])
    assert np.array_equal(held_out[:30], held_out[60:])


def test_few_or_uneven_documents_are_not_chosen_from() -> None:
    lengths, hashes = random_documents(FEWEST_DOCUMENTS - 1)
    assert hold_out(lengths, hashes, 0.2) is None
    lengths, hashes = random_documents(20)
    lengths[3] = 10_000_000
    assert hold_out(lengths, hashes, 0.1) is None


def test_a_document_that_is_far_too_large_is_not_held_out() -> None:
    lengths, hashes = random_documents(100)
    giant = int(np.argmin(hashes))
    lengths[giant] = lengths.sum() // 4
    held_out = hold_out(lengths, hashes, 0.1)
    assert held_out is not None
    assert not held_out[giant]
    assert lengths[held_out].sum() / lengths.sum() == pytest.approx(0.1, rel=0.3)
