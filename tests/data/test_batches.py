import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quillgpt.data.batches import (
    Source,
    TrainingBatches,
    WindowOrder,
    all_offsets,
    divide_items,
    evaluation_batches,
    gather,
    permute,
    spread_offsets,
)

LENGTHS = st.tuples(st.integers(1, 40), st.integers(1, 400)).map(lambda pair: (pair[0], pair[0] + pair[1]))
"""Block sizes, and token counts that hold at least one window."""


@given(st.integers(1, 3000), st.integers(0, 2**63))
@settings(max_examples=60, deadline=None)
def test_the_permutation_takes_every_place_once(size, seed):
    places = permute(np.arange(size), size, np.random.SeedSequence(seed))
    assert np.array_equal(np.sort(places), np.arange(size))


def test_the_permutation_spreads_neighbours_over_the_whole_range():
    size = 5000
    places = permute(np.arange(size), size, np.random.SeedSequence(7))
    assert abs(np.corrcoef(np.arange(size), places)[0, 1]) < 5 / size**0.5
    assert np.abs(np.diff(places)).mean() == pytest.approx(size / 3, rel=0.1)  # that of a random permutation


@given(LENGTHS, st.data())
@settings(max_examples=60, deadline=None)
def test_an_items_start_depends_on_the_item_alone(lengths, data):
    block_size, token_count = lengths
    windows = WindowOrder(token_count, block_size, seed=3)
    together = windows.offsets(0, 60)
    first = data.draw(st.integers(0, 59))
    count = data.draw(st.integers(0, 60 - first))
    assert np.array_equal(windows.offsets(first, count), together[first : first + count])


@given(LENGTHS, st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_an_epoch_sees_each_of_its_windows_once_and_none_overlap(lengths, epoch):
    block_size, token_count = lengths
    windows = WindowOrder(token_count, block_size, seed=5)
    count = windows.windows_per_epoch
    starts = np.sort(windows.offsets(epoch * count, count))
    assert (np.diff(starts) == block_size).all()
    assert starts[0] >= 0
    assert starts[-1] + block_size + 1 <= token_count


def test_epochs_differ_in_order_and_in_grid():
    windows = WindowOrder(10_000, 16, seed=1)
    epochs = windows.offsets(0, 8 * windows.windows_per_epoch).reshape(8, -1)
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 8
    assert len({int(epoch.min()) for epoch in epochs}) > 4


def test_another_seed_is_another_order():
    one, two = (WindowOrder(10_000, 16, seed=seed).offsets(0, 50) for seed in (1, 2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("token_count", [9, 12, 16, 17, 24, 25, 31, 32, 33, 60, 100])
def test_over_the_epochs_every_token_is_read_and_all_but_the_first_predicted(token_count):
    block_size = 8
    windows = WindowOrder(token_count, block_size, seed=0)
    starts = windows.offsets(0, 300 * windows.windows_per_epoch)
    inputs, targets = gather(np.arange(token_count, dtype=np.uint16), starts, block_size)
    assert set(targets.flatten().tolist()) == set(range(1, token_count))
    assert set(inputs.flatten().tolist()) == set(range(token_count - 1))


def test_the_shortest_array_is_one_window():
    windows = WindowOrder(9, 8, seed=0)
    assert windows.offsets(0, 5).tolist() == [0, 0, 0, 0, 0]


def test_an_array_without_a_window_is_refused():
    with pytest.raises(ValueError, match="8 tokens hold no window of 8 inputs"):
        WindowOrder(8, 8, seed=0)


def test_targets_are_the_tokens_after_the_inputs():
    tokens = np.arange(100, 200, dtype=np.uint16)
    inputs, targets = gather(tokens, np.array([0, 7]), 4)
    assert inputs.tolist() == [[100, 101, 102, 103], [107, 108, 109, 110]]
    assert targets.tolist() == [[101, 102, 103, 104], [108, 109, 110, 111]]
    assert inputs.dtype == targets.dtype == torch.int64


@given(st.integers(1, 500), st.integers(1, 20))
def test_all_blocks_are_those_of_which_every_target_is_there(token_count, block_size):
    starts = all_offsets(token_count, block_size)
    assert len(starts) == (token_count - 1) // block_size
    assert starts.tolist() == [block * block_size for block in range(len(starts))]


@given(st.integers(2, 2000), st.integers(1, 10), st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_evaluation_blocks_are_spread_distinct_and_the_same_each_time(token_count, block_size, count, seed):
    starts = spread_offsets(token_count, block_size, count, seed)
    blocks = all_offsets(token_count, block_size)
    assert len(starts) == min(count, len(blocks))
    assert set(starts) <= set(blocks)
    assert (np.diff(starts) > 0).all()
    assert np.array_equal(starts, spread_offsets(token_count, block_size, count, seed))


def test_evaluation_takes_one_block_from_each_part_of_the_split():
    starts = spread_offsets(10_001, 10, 10, seed=4)
    assert (starts // 1000).tolist() == list(range(10))


def test_evaluation_batches_hold_every_window_once():
    tokens = np.arange(50, dtype=np.uint16)
    batches = list(evaluation_batches(tokens, all_offsets(50, 7), block_size=7, batch_size=3))
    assert [len(inputs) for inputs, _ in batches] == [3, 3, 1]
    assert torch.cat([targets for _, targets in batches]).flatten().tolist() == list(range(1, 50))


SHARES = st.lists(st.floats(0.01, 1), min_size=1, max_size=9).map(lambda weights: [w / sum(weights) for w in weights])


@given(SHARES, st.integers(0, 10**9), st.lists(st.integers(0, 50), max_size=20))
@settings(max_examples=200, deadline=None)
def test_items_go_on_where_the_last_ones_ended_and_each_goes_to_one_sequence(shares, first, counts):
    before = [part.start for part in divide_items(first, 0, shares)]
    assert sum(before) == first
    for count in counts:
        parts = divide_items(first, count, shares)
        assert [part.start for part in parts] == before
        assert sum(map(len, parts)) == count
        first, before = first + count, [part.stop for part in parts]


@given(SHARES, st.integers(0, 10**7))
@settings(max_examples=500, deadline=None)
def test_the_first_items_are_divided_by_the_shares_to_within_one(shares, items):
    allowed = 1 if len(shares) <= 4 else 3
    for part, share in zip(divide_items(0, items, shares), shares, strict=True):
        assert abs(len(part) - items * share) < allowed + 1e-6


@given(st.floats(0, 0.999), st.integers(0, 10**9), st.integers(0, 500))
@settings(max_examples=500, deadline=None)
def test_two_sequences_are_divided_as_runs_with_replay_always_were(share, first, count):
    old = range(int(first * share), int((first + count) * share))
    new = range(first - old.start, first + count - old.stop)
    assert divide_items(first, count, [1 - share, share]) == [new, old]


@given(st.integers(0, 12), st.integers(0, 12))
def test_some_rows_of_a_batch_are_read_as_the_whole_batch_has_them(first, end):
    sources = [Source(np.arange(100, dtype=np.uint16), 0.6), Source(np.arange(200, 300, dtype=np.uint16), 0.4)]
    batches = TrainingBatches(sources, block_size=4, batch_size=12, seed=1)
    for part, whole in zip(batches.batch(3, slice(first, end)), batches.batch(3), strict=True):
        assert part.equal(whole[first:end])


def test_a_batch_has_the_windows_that_each_source_would_have_alone():
    texts = [
        np.arange(start, start + 500, dtype=kind)
        for start, kind in ((0, np.uint16), (1000, np.uint32), (2000, np.uint16))
    ]
    shares = [0.5, 0.2, 0.3]
    batches = TrainingBatches(
        [Source(text, share) for text, share in zip(texts, shares, strict=True)], block_size=8, batch_size=7, seed=3
    )
    counts = np.zeros(3, dtype=int)
    for iteration in range(40):
        inputs, targets = batches.batch(iteration)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        sources = inputs[:, 0] // 1000
        assert sources.tolist() == [window.source for window in batches.windows(iteration)]
        for source, text in enumerate(texts):
            own = inputs[sources == source]
            alone = WindowOrder(len(text), 8, seed=3).offsets(int(counts[source]), len(own))
            assert torch.equal(own, gather(text, alone, 8)[0])
            counts[source] += len(own)
    assert np.abs(counts - 280 * np.array(shares)).max() < 1
