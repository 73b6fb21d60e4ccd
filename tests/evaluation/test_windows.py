"""Which targets an evaluation counts, and what the model sees before them."""

import itertools

import numpy as np
import pytest

from quillgpt.data.batches import all_offsets, spread_offsets
from quillgpt.errors import ConfigError, DataError
from quillgpt.evaluation import Windows

SIZES = list(itertools.product([2, 3, 9, 10, 11, 12, 25, 40], [1, 2, 5, 10]))


def counted_targets(windows, batch_size=3):
    """The places of the counted targets, and how many tokens were seen before each, target by target."""
    places, contexts = [], []
    for batch in windows.batches(batch_size):
        assert 0 < len(batch.offsets) <= batch_size
        assert batch.offsets.min() >= 0
        assert batch.offsets.max() + batch.length < windows.token_count
        places += batch.positions.reshape(-1).tolist()
        contexts += (batch.positions - batch.offsets[:, None]).reshape(-1).tolist()
    return places, contexts


@pytest.mark.parametrize(("token_count", "block_size"), SIZES)
def test_with_a_stride_every_token_but_the_first_counts_once_with_the_context_that_the_stride_leaves(
    token_count, block_size
):
    for stride in range(1, block_size + 1):
        windows = Windows(token_count, block_size, stride)
        places, contexts = counted_targets(windows)
        assert places == list(range(1, token_count))
        assert windows.target_count == token_count - 1
        for place, context in zip(places, contexts, strict=True):
            if place <= block_size:
                assert context == place
            else:
                assert block_size - stride < context <= block_size
        if stride == 1:
            assert contexts == [min(place, block_size) for place in places]


@pytest.mark.parametrize(("token_count", "block_size"), SIZES)
def test_without_a_stride_the_windows_are_the_whole_blocks(token_count, block_size):
    windows = Windows(token_count, block_size)
    if token_count <= block_size:
        with pytest.raises(DataError, match=f"{token_count} tokens; one block of the model needs {block_size + 1}"):
            windows.check()
        return
    offsets = np.concatenate([batch.offsets for batch in windows.batches(3)])
    assert np.array_equal(offsets, all_offsets(token_count, block_size))
    assert counted_targets(windows)[0] == list(range(1, 1 + len(offsets) * block_size))


@pytest.mark.parametrize("stride", [None, 1, 3, 10])
@pytest.mark.parametrize("count", [1, 4, 1000])
def test_chosen_windows_are_some_of_all(stride, count):
    windows = Windows(95, 10, stride)
    places, contexts = counted_targets(windows)
    chosen = windows.spread(count, seed=7)
    assert len(chosen) == min(count, len(windows))
    some, their_contexts = counted_targets(chosen)
    assert dict(zip(places, contexts, strict=True)) | dict(zip(some, their_contexts, strict=True)) == dict(
        zip(places, contexts, strict=True)
    )
    assert len(set(some)) == len(some) == chosen.target_count
    assert chosen.whole is (count == 1000)
    if stride is None:
        offsets = np.concatenate([batch.offsets for batch in chosen.batches(3)])
        assert np.array_equal(offsets, spread_offsets(95, 10, count, 7))


@pytest.mark.parametrize(("token_count", "block_size"), SIZES)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_contexts_and_batches_are_counted_without_reading(token_count, block_size, batch_size):
    for stride in (None, *range(1, block_size + 1)):
        windows = Windows(token_count, block_size, stride)
        if not windows.in_split:
            continue
        _, contexts = counted_targets(windows, batch_size)
        assert windows.batch_count(batch_size) == len(list(windows.batches(batch_size)))
        assert windows.contexts.mean == pytest.approx(np.mean(contexts))
        assert windows.contexts.longest == max(contexts)
        assert windows.contexts.shortest == min(contexts[block_size:] or contexts)


def test_a_stride_that_would_leave_tokens_out_is_refused():
    with pytest.raises(ConfigError, match=r"stride = 11 is larger than a window of 10 tokens.* give at most 10"):
        Windows(100, 10, 11).check()
    with pytest.raises(DataError, match="the split has 1 tokens; 2 are needed"):
        Windows(1, 10, 5).check()
