"""Sums of losses by document and by block, beside a slow truth: one token at a time."""

import tracemalloc

import numpy as np
import pytest
import torch

from quillgpt.data.document_ends import DocumentEnds
from quillgpt.evaluation import Windows, mean_loss, score_windows, units
from quillgpt.text.tokenizers.byte import ByteTokenizer
from tiny import CONFIGS, END, GPT2, documents_of_bytes, tiny_model


def loss_of_target(model, tokens, place, context):
    """The loss of one token, predicted from the `context` tokens before it and nothing else."""
    ids = torch.from_numpy(tokens[place - context : place].astype(np.int64))[None]
    with torch.no_grad():
        logits = model.logits(model(ids))[0, -1].double().numpy()
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[place]])


def slow_losses(model, tokens, windows):
    """The loss of each counted target by its place."""
    return {
        int(place): loss_of_target(model, tokens, int(place), int(place - offset))
        for batch in windows.batches(1)
        for offset in batch.offsets
        for place in batch.positions[0]
    }


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("stride", [None, 1, 5, 16])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_losses_are_those_of_one_token_at_a_time(arch, stride, batch_size):
    model, tokens = tiny_model(CONFIGS[arch], vocab_size=257), documents_of_bytes(59)
    windows = Windows(len(tokens), 16, stride)
    losses = slow_losses(model, tokens, windows)
    ends = DocumentEnds(tokens, END)
    score = score_windows(model, ByteTokenizer(), tokens, windows, batch_size=batch_size, ends=ends)
    assert len(losses) == score.tokens == (48 if stride is None else 58)
    assert score.loss == pytest.approx(np.mean(list(losses.values())), rel=1e-5)
    assert score.bytes == sum(tokens[place] != END for place in losses)
    assert score.bits_per_byte == pytest.approx(sum(losses.values()) / np.log(2) / score.bytes, rel=1e-5)

    document_of = np.concatenate([[0], np.cumsum(tokens == END)[:-1]])
    places = np.array(list(losses))
    documents = [places[document_of[places] == number] for number in np.unique(document_of[places])]
    assert score.units.unit == "document"
    assert score.units.tokens.tolist() == [len(document) for document in documents]
    assert score.units.losses == pytest.approx([sum(losses[place] for place in part) for part in documents], rel=1e-5)
    assert score.units.bytes.tolist() == [int((tokens[part] != END).sum()) for part in documents]
    assert score.units.places.tolist() == [int(part.sum()) for part in documents]
    assert score.units.ends.tolist() == [int((tokens[part] == END).sum()) for part in documents]


@pytest.mark.parametrize("stride", [None, 1, 4])
def test_blocks_are_cut_from_the_targets_whatever_the_stride(stride):
    model, tokens = tiny_model(vocab_size=257), documents_of_bytes(70)
    windows = Windows(70, 16, stride)
    score = score_windows(model, ByteTokenizer(), tokens, windows, batch_size=2, unit_size=20)
    losses = slow_losses(model, tokens, windows)
    blocks = [
        [losses[place] for place in range(first, min(first + 20, 70)) if place in losses] for first in (1, 21, 41, 61)
    ]
    assert score.units.unit == "block"
    assert score.units.tokens.tolist() == [len(block) for block in blocks]
    assert score.units.losses == pytest.approx([sum(block) for block in blocks], rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_chosen_windows_of_one_document_are_one_unit(seed, monkeypatch):
    monkeypatch.setattr(units, "FIRST_ROOM", 2)
    tokens = documents_of_bytes(2000, seed=seed, share=0.01)
    windows = Windows(len(tokens), 16, None if seed % 2 else 3).spread(20, seed)
    ends = DocumentEnds(tokens, END)
    score = score_windows(tiny_model(vocab_size=257), ByteTokenizer(), tokens, windows, batch_size=3, ends=ends)
    places = np.concatenate([batch.positions.reshape(-1) for batch in windows.batches(3)])
    document_of = np.concatenate([[0], np.cumsum(tokens == END)[:-1]])[places]
    assert score.units.tokens.tolist() == np.unique(document_of, return_counts=True)[1].tolist()
    assert score.units.losses.sum() == pytest.approx(score.loss * score.tokens, rel=1e-5)


def test_a_split_of_one_document_is_compared_by_blocks():
    tokens = documents_of_bytes(100, share=0)
    ends = DocumentEnds(tokens, END)
    score = score_windows(
        tiny_model(vocab_size=257), ByteTokenizer(), tokens, Windows(100, 16), batch_size=2, ends=ends
    )
    assert (score.units.unit, len(score.units)) == ("block", 6)
    assert score.estimate.standard_error > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_mean_is_that_of_training_to_the_last_bit(dtype, batch_size):
    """The loss of a training step is `GPT.loss_sum`; an evaluation adds up the same sums."""
    model, tokens = tiny_model(vocab_size=257), documents_of_bytes(16 * 9 + 1)
    ids = torch.from_numpy(tokens.astype(np.int64))
    inputs, targets = ids[:-1].view(9, 16), ids[1:].view(9, 16)
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, 9, batch_size):
        rows = slice(first, first + batch_size)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            total += model.loss_sum(inputs[rows], targets[rows])
    expected = float(total) / 144
    offsets = np.arange(9) * 16
    assert mean_loss(model, tokens, offsets, batch_size=batch_size, dtype=dtype) == expected
    windows = Windows(len(tokens), 16)
    score = score_windows(model, ByteTokenizer(), tokens, windows, batch_size=batch_size, dtype=dtype)
    assert score.loss == expected


def test_a_long_split_takes_no_more_memory_than_a_short_one(tmp_path):
    """Nothing is kept of a batch but its sums by unit."""
    model = tiny_model(GPT2, vocab_size=257, n_layer=1, n_embd=8, n_head=1, n_kv_head=1, mlp_dim=8, block_size=512)
    peaks = []
    for count in (20_000, 400_000):
        documents_of_bytes(count, share=0.002).tofile(tmp_path / "tokens.bin")
        tokens = np.memmap(tmp_path / "tokens.bin", np.uint16, "r")
        tracemalloc.start()
        score_windows(model, ByteTokenizer(), tokens, Windows(count, 512), batch_size=8, ends=DocumentEnds(tokens, END))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 400_000  # a byte for each token would be 400,000, an int64 eight times that


def test_sums_of_batches_take_room_rarely() -> None:
    adder, kept = units.UnitAdder("block"), set()
    counts = np.ones((4, 3), dtype=np.int64)
    for batch in range(2000):
        adder.add(np.array([2 * batch, 2 * batch + 1, 2 * batch + 2]), np.ones(3), counts)
        kept |= {id(value) for value in vars(adder).values() if isinstance(value, np.ndarray)}
    assert len(kept) == 2
    assert adder.total().losses.tolist() == [1, 1, *[2, 1] * 1999, 1]
