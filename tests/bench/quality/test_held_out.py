"""The held-out part is cut off first, and every candidate pays for all of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import tiny
from quillgpt.bench.quality import held_out
from quillgpt.bench.quality.held_out import SplitText, readable_part, split_text
from quillgpt.bench.quality.scoring import bits_of
from quillgpt.errors import DataError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("text", "least", "most", "in_lines"),
    [
        ("A line of words.\n" * 10_000, 17_000, 17_020, True),  # a tenth
        ("Слова на строке.\n" * 1000, 5_000, 5_030, True),  # of a short text more
        ("a line\n" * 3_000_000, 1_999_990, 2_000_000, True),  # and of a long one less
        ("слова " * 20_000, 20_000, 22_001, False),  # without any line
        ("short\n" + "long " * 20_000, 10_000, 10_001, False),  # one long line
        ("short\n" + "long " * 5_000_000, 2_000_000, 2_000_000, False),
    ],
)
def test_the_held_out_part_is_the_end_in_whole_lines(
    tmp_path: Path, text: str, least: int, most: int, in_lines: bool
) -> None:
    split = split_text(write(tmp_path / "text.txt", text), "text")
    assert split.train + split.held == text
    assert least <= split.held_bytes <= most
    assert split.train.endswith("\n") == in_lines


def test_a_text_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 7,000 bytes, and the benchmark needs 10,000"):
        split_text(write(tmp_path / "text.txt", "a line\n" * 1000), "text")


def test_a_text_in_another_encoding_counts_as_utf8(tmp_path: Path) -> None:
    text = "Größe und Füße, Straße für Straße.\n" * 1000
    (tmp_path / "text.txt").write_bytes(text.encode("latin-1"))
    split = split_text(tmp_path / "text.txt", "text")
    assert split.train + split.held == text
    assert split.held_bytes > len(split.held)


def test_new_characters_cost_more_than_any_known_one_and_known_ones_pay_a_little() -> None:
    split = SplitText("text", "", train="abc" * 1000 + "xyz", held="abcñabc")
    everything = readable_part(split, None)
    assert (everything.text, everything.unknown, everything.bits) == (split.held, 0, 0.0)
    readable = readable_part(split, {*split.train})
    assert (readable.text, readable.unknown) == ("abcabc", 1)
    new = 4 / 3005  # three of 3,003 characters occur once
    expected = -6 * math.log2(1 - new) - math.log2(new) + math.log2(held_out.CODE_POINTS)
    assert readable.bits == pytest.approx(expected)
    assert readable_part(SplitText("text", "", "abc" * 1000, "abc"), "abc").bits < 0.01


@pytest.mark.parametrize("count", [1, 15, 16, 17, 40, 64])
def test_every_id_is_counted_once_whatever_the_length(count: int) -> None:
    model = tiny.tiny_model(tiny.GPT2).eval()
    context = model.config.block_size
    ids = tiny.random_ids(tiny.GPT2, 1, count)[0].tolist()
    start = 3

    def nats(inputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float(model.loss_sum(inputs, targets))

    expected, sequence = 0.0, [start, *ids]
    with torch.no_grad():
        for place, wanted in enumerate(ids):
            seen = sequence[place // context * context : place + 1]
            logits = model.logits(model(torch.tensor([seen])))[0, -1]
            expected -= float(torch.log_softmax(logits.double(), -1)[wanted])
    assert bits_of(ids, start, context, nats) == pytest.approx(expected / math.log(2), rel=1e-5)
