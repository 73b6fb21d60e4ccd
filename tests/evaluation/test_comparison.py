"""What can be told about two models on the same text."""

import math

import numpy as np
import pytest

from quillgpt.data.document_ends import DocumentEnds
from quillgpt.errors import DataError
from quillgpt.evaluation import Score, Windows, compare, score_windows
from quillgpt.evaluation.units import UnitSums
from quillgpt.text.tokenizers.byte import ByteTokenizer
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import END, documents_of_bytes, tiny_model


def scored(losses, sizes, unit="document", **changes):
    """The score of a model with these losses of units."""
    sizes = np.asarray(sizes, dtype=np.int64)
    stops = np.cumsum(sizes)
    sums = {
        "losses": np.asarray(losses, dtype=np.float64),
        "tokens": sizes,
        "bytes": sizes * 4,
        "places": np.array([np.arange(stop - size, stop).sum() for size, stop in zip(sizes, stops, strict=True)]),
        "ends": np.ones_like(sizes),
    }
    sums |= changes
    return Score(sums["losses"].sum() / sizes.sum(), 1.0, None, int(sizes.sum()), units=UnitSums(unit, **sums))


def two_models(better_by, *, units=40, seed=0):
    """Two models on documents whose difficulty varies a hundred times as much as the difference between them."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(50, 500, units)
    difficulty = generator.normal(3, 1, units)
    noise = generator.normal(0, 0.01, units)
    return scored(sizes * (difficulty - better_by + noise), sizes), scored(sizes * difficulty, sizes)


def test_a_better_model_is_told_though_the_losses_overlap():
    one, other = two_models(better_by=0.02)
    difference = compare(one, other, same_tokens=True)
    low, high = difference.estimate.interval
    assert low < -0.02 < high < 0
    assert (difference.verdict, difference.measure, difference.unit) == ("better", "nats per token", "document")
    assert difference.estimate.standard_error < one.estimate.standard_error / 20
    assert one.estimate.interval[0] < other.loss < one.estimate.interval[1]
    assert compare(other, one, same_tokens=True).verdict == "worse"
    assert compare(other, one, same_tokens=True).estimate.value == pytest.approx(-difference.estimate.value)


def test_a_model_is_as_good_as_its_copy():
    one, _ = two_models(0.02)
    difference = compare(one, one, same_tokens=True)
    assert difference.estimate.value == 0
    assert difference.estimate.interval == (0, 0)
    assert difference.verdict == "no difference can be told"


def test_models_of_equal_quality_are_rarely_told_apart():
    verdicts = [compare(*two_models(0, seed=seed), same_tokens=True).verdict for seed in range(400)]
    assert verdicts.count("no difference can be told") / 400 >= 0.92


def test_of_one_unit_no_difference_can_be_told():
    difference = compare(scored([10], [5]), scored([20], [5]), same_tokens=True)
    assert difference.estimate.value == -2
    assert (difference.estimate.interval, difference.verdict) == (None, "no difference can be told")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_no_better_and_no_worse(value):
    difference = compare(scored([1, value, 3], [5, 5, 5]), scored([1, 2, 3], [5, 5, 5]), same_tokens=True)
    assert difference.verdict == "no difference can be told"


def measured(block_size, stride=None, *, tokens=None, ends=True, unit_size=None, model_seed=0):
    tokens = documents_of_bytes(500) if tokens is None else tokens
    model = tiny_model(vocab_size=257, block_size=block_size, seed=model_seed)
    return score_windows(
        model,
        ByteTokenizer(),
        tokens,
        Windows(len(tokens), block_size, stride),
        batch_size=4,
        ends=DocumentEnds(tokens, END) if ends else None,
        unit_size=unit_size,
    )


@pytest.mark.parametrize("ends", [True, False], ids=["documents", "blocks"])
def test_models_of_different_contexts_are_compared_on_the_units_that_both_predicted(ends):
    short, long = measured(7, ends=ends, unit_size=64), measured(64, ends=ends, unit_size=64)
    assert short.tokens == 497
    assert long.tokens == 448
    common = min(len(short.units), len(long.units)) - (1 if ends else 0)  # the last one is not whole for `long`
    assert np.array_equal(short.units.places[:common], long.units.places[:common])
    difference = compare(short, long, same_tokens=True)
    assert difference.units == common
    tokens = short.units.tokens[:common].sum()
    expected = (short.units.losses[:common].sum() - long.units.losses[:common].sum()) / tokens
    assert difference.estimate.value == pytest.approx(expected)


def test_with_a_stride_all_targets_are_common():
    short, long = measured(8, 8), measured(64, 16)
    assert compare(short, long, same_tokens=True).estimate.value == pytest.approx(short.loss - long.loss, rel=1e-4)


def test_samples_of_different_places_are_refused_with_what_to_do():
    one, other = scored([3.0, 4.0], [4, 4]), scored([3.0, 4.0], [8, 8])
    with pytest.raises(DataError, match=r"no document or block was predicted by both; give both the same --block_size"):
        compare(one, other, same_tokens=True)


ALPHABET = CharTokenizer(map(chr, range(256)))


def of_characters(tokens):
    """The same documents for a tokenizer without an end of text: a blank line between them."""
    text = "".join("\n\n" if token == END else chr(token) for token in tokens)
    return ALPHABET.encode(text).astype(np.uint16)


def test_models_of_different_tokenizers_are_compared_document_by_document_in_bits_per_byte():
    tokens = documents_of_bytes(600)
    tokens[tokens < 256] %= 100
    tokens[(tokens == 10) | (np.roll(tokens, 1) == END) & (tokens == END)] = 65
    characters = of_characters(tokens)
    one = measured(16, 4, tokens=tokens)
    ends = DocumentEnds(characters, 10, blank_lines=True)
    model = tiny_model(vocab_size=256, block_size=32, seed=1)
    other = score_windows(model, ALPHABET, characters, Windows(len(characters), 32, 8), batch_size=4, ends=ends)
    difference = compare(other, one, same_tokens=False)
    assert (difference.measure, difference.unit) == ("bits per byte", "document")
    whole = slice(1, int((tokens == END).sum()))
    assert difference.units == len(one.units.tokens[whole])
    bits = [s.units.losses[whole].sum() / math.log(2) / s.units.bytes[whole].sum() for s in (other, one)]
    assert difference.estimate.value == pytest.approx(bits[0] - bits[1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unit": "block"}, "the text is not divided into documents; prepare one text of several documents with both"),
        ({"bytes": np.array([8, 8, 80, 8])}, "their tokenizers differ, and so do the documents"),
        ({"ends": np.zeros(4, dtype=np.int64)}, "so do the documents"),
    ],
)
def test_other_texts_are_refused_with_what_to_do(changes, reason):
    one = scored([4, 4, 4, 4], [2, 2, 2, 2])
    other = scored([5, 5, 5, 5], [2, 2, 2, 2], **changes)
    with pytest.raises(DataError, match=reason):
        compare(one, other, same_tokens=False)
    with pytest.raises(DataError, match="so do the documents"):
        compare(one, scored([5] * 9, [2] * 9), same_tokens=False)
