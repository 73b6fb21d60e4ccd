"""A record that grows, is cut, replaced and damaged while it is read."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from quillgpt.runs.record import LONGEST_LINE, Record, last_rows, parse
from runs.folders import row, step


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"kind": "train", "iter": 3, "loss": NaN}', {"kind": "train", "iter": 3, "loss": None}),
        (
            b'{"kind": "train", "iter": 3, "loss": 1e999, "a": []}',
            {"kind": "train", "iter": 3, "loss": None, "a": None},
        ),
        (b'{"kind": "train", "iter": ' + b"9" * 400 + b"}", None),
        (b'{"kind": "train", "iter": true}', None),
        (b'{"kind": "train"}', None),
        (b'{"kind": 3, "iter": 3}', None),
        (b"[" * 10_000, None),
        (b"\xff\x00", None),
        (b'"' + b"x" * 100_000 + b'"', None),
        (b"", None),
    ],
)
def test_lines_of_a_record(line: bytes, expected: dict[str, Any] | None) -> None:
    assert parse(line) == expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def iterations(read: tuple[bool, list[dict[str, Any]]]) -> tuple[bool, list[Any]]:
    anew, rows = read
    return anew, [row["iter"] for row in rows]


def test_a_line_is_read_when_it_ends(path: Path) -> None:
    record = Record(path)
    assert record.read() == (False, [])
    path.touch()
    for number, character in enumerate(step(1) + step(2), start=1):
        with path.open("a") as file:
            file.write(character)
        got = iterations(record.read())
        assert got == (False, [1] if number == len(step(1)) else [2] if number == len(step(1) + step(2)) else [])
    assert record.damaged == 0


def test_a_record_that_was_replaced_is_read_anew(path: Path) -> None:
    path.write_text(step(1) + step(2) + step(3))
    record = Record(path)
    record.read()
    resumed = path.with_name("resumed")
    resumed.write_text(step(1) + step(2))
    resumed.replace(path)
    assert iterations(record.read()) == (True, [1, 2])
    path.unlink()
    assert iterations(record.read()) == (False, [])
    path.write_text(step(7) + step(8))
    assert iterations(record.read()) == (True, [7, 8])


def test_a_record_that_was_cut_is_read_anew(path: Path) -> None:
    path.write_text(step(1) + step(2) + step(3))
    record = Record(path)
    record.read()
    os.truncate(path, len(step(1)))
    assert iterations(record.read()) == (True, [1])
    with path.open("r+") as file:  # cut, and grown beyond what was read, between two looks
        file.truncate(0)
        file.write(step(4) + step(5) + step(6))
    assert iterations(record.read()) == (True, [4, 5, 6])


def test_damage_is_counted_and_passed_over(path: Path) -> None:
    endless = b"x" * (3 * LONGEST_LINE)
    path.write_bytes(b"\n".join([step(1).encode()[:-1], b"\xff{}", b"", endless, b"[", step(3).encode()]))
    record = Record(path)
    assert iterations(record.read()) == (False, [1, 3])
    assert record.damaged == 3
    in_pieces, rows = Record(path), []
    while True:
        rows += in_pieces.read(LONGEST_LINE + 1)[1]
        if not in_pieces.is_behind:
            break
    assert [row["iter"] for row in rows] == [1, 3]
    assert in_pieces.damaged == 3


def test_any_growth_in_any_pieces_gives_the_same_rows(path: Path) -> None:
    chance = random.Random(3)
    text = "".join(step(i) if i % 7 else row("sample", iter=i, text="\u00e9\n\u2028" * i) for i in range(60)).encode()
    path.write_bytes(b"")
    record, rows, written = Record(path), [], 0
    while written < len(text):
        more = chance.randrange(1, 400)
        with path.open("ab") as file:
            file.write(text[written : written + more])
        written += more
        anew, found = record.read()
        assert not anew
        rows += found
    assert rows == [json.loads(line) for line in text.splitlines()]


def test_only_some_lines_are_read(path: Path) -> None:
    path.write_text(step(1) + row("eval", iter=1, val_loss=2.0) + "{damaged\n")
    record = Record(path, only=b'"eval"')
    assert [row["kind"] for row in record.read()[1]] == ["eval"]
    assert [row["kind"] for row in last_rows(path)] == ["train", "eval"]
    assert last_rows(path, most=30) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert Record(path).read() == (False, [])
    assert last_rows(path) == []
