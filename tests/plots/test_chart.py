"""Curves as text."""

from __future__ import annotations

import math

import pytest

from quillgpt.plots.chart import draw_chart, loss_chart, short_number
from quillgpt.plots.record import Points

FALLING: Points = [(i, 4 - 3 * i / 10) for i in range(11)]
RISING: Points = [(i, 1 + 3 * i / 10) for i in range(11)]


def chart(*curves: Points, width: int = 80, encoding: str = "utf-8") -> str:
    named = dict(zip(("train", "val"), curves, strict=False))
    return draw_chart(named, title="loss", x_label="iterations", width=width, encoding=encoding)


def test_a_small_chart_as_it_looks() -> None:
    assert chart(FALLING, RISING, width=36).splitlines() == [
        "     loss:  · train   • val",
        "4.00 ┤··                          ••",
        "     │  ····                  ••••",
        "3.25 ┤      ····          ••••",
        "     │          ···   ••••",
        "2.50 ┤             •••",
        "     │          •••   ····",
        "1.75 ┤      ••••          ····",
        "     │  ••••                  ····",
        "1.00 ┤••                          ··",
        "     └┴─────────────┴───────────────",
        "      0             5     iterations",
    ]


@pytest.mark.parametrize("width", [40, 55, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252", "no-such-encoding"])
def test_it_fits_and_can_be_shown(width: int, encoding: str) -> None:
    many: Points = [(i, 8 + 3 * math.sin(i / 500)) for i in range(10_000)]
    text = chart(many, FALLING, width=width, encoding=encoding)
    lines = text.splitlines()
    assert len(lines) == 12
    assert max(map(len, lines)) == width
    if encoding != "utf-8":
        assert text.isascii()
        assert "." in lines[3] + lines[6]


def test_a_cliff_leaves_no_gap() -> None:
    rows = chart([(0, 9), (1, 9), (50, 1), (51, 1), (52, 1), (100, 1)], width=60).splitlines()[1:10]
    assert all("·" in row for row in rows)


def test_points_of_one_column_are_averaged() -> None:
    noisy: Points = [(i, 2 + (-1) ** i) for i in range(10_000)]
    rows = chart([*noisy, (10_000, 1.0), (10_001, 3.0)]).splitlines()[1:10]
    assert rows[4].count("·") > 60


@pytest.mark.parametrize(
    "points", [[], [(1.0, 2.0)], [(0, 1), (1, 1), (2, 1)], [(3, 1), (3, 2), (3, 3), (3, 4)]], ids=str
)
def test_too_little_to_draw(points: Points) -> None:
    assert chart(points) == ""
    assert draw_chart({}, title="loss", x_label="iterations") == ""


def test_no_room() -> None:
    assert chart(FALLING, width=20) == ""


def test_a_flat_curve_is_drawn_in_the_middle() -> None:
    rows = chart([(i, 2.0) for i in range(5)]).splitlines()[1:10]
    assert rows[4].startswith("2.00 ┤···")
    assert not any("·" in row for row in rows[:4] + rows[5:])


@pytest.mark.parametrize("low", [1e-6, 0.37, 1.0])
@pytest.mark.parametrize("right", [4.0, 97.0, 600_000.0, 9.1e9])
def test_labels_differ_whatever_the_range(low: float, right: float) -> None:
    lines = chart([(right * i / 8, low + low * i / 80) for i in range(9)]).splitlines()
    labels = [line.split(" ┤")[0].strip() for line in lines[1:10:2]]
    assert len(set(labels)) == 5
    ticks = lines[-1].split()[:-1]
    assert len(ticks) == len(set(ticks)) == lines[-2].count("┴") >= 2


def test_loss_chart_names_the_lowest_validation_loss() -> None:
    rows = [
        {"kind": "eval", "iter": i * 1000, "train_loss": 3 - i / 10, "val_loss": 3 + (i - 2) ** 2, "tokens": i * 1e9}
        for i in range(6)
    ]
    assert "• val, lowest 3.0000 at 2,000" in loss_chart(rows)
    over_tokens = loss_chart(rows, axis="tokens")
    assert "lowest 3.0000 at 2B" in over_tokens
    assert over_tokens.endswith("tokens")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (1500, "1,500"), (999_999, "999,999"), (2.5e6, "2.5M"), (3e9, "3B"), (4e12, "4T")],
)
def test_numbers_in_short(value: float, text: str) -> None:
    assert short_number(value) == text
