"""What a run's files tell: on which machines it ran, and how it was begun."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quillgpt.report.told import Told, read_run
from runs import folders
from runs.folders import evaluation

BOOK = {"value": "my book.txt", "place": "flags"}


@pytest.fixture
def told(tmp_path):
    """Give a function that returns what a run with these sessions tells."""

    def told(*sessions: dict[str, Any]) -> Told:
        run = folders.a_run(tmp_path / "run", evaluation(0, 3.0), settings="n_layer = 2\n")
        (run / "provenance.json").write_text(json.dumps({"sessions": sessions}))
        return read_run("run", run)

    return told


def test_sessions_on_the_same_machine_are_one(told):
    here, there = (
        {"device": "cpu", "packages": {"torch": "2.13.0"}},
        {"device": "cuda", "packages": {"torch": "2.13.0"}},
    )
    newer = {"device": "cuda", "packages": {"torch": "2.14.0"}}
    sessions = [{**what, "iteration": 10 * at} for at, what in enumerate([here, here, there, newer, newer, here])]
    machines = told(*sessions).machines()
    assert [(start, machine["device"], machine["torch"]) for start, machine in machines] == [
        (0, "cpu", "2.13.0"),
        (20, "cuda", "2.13.0"),
        (30, "cuda", "2.14.0"),
        (50, "cpu", "2.13.0"),
    ]


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ({"data": BOOK}, "quill train '--data=my book.txt'"),
        (
            {"n_layer": {"value": 3, "place": "preset own_text"}, "data": BOOK, "arch": {"place": "preset own_text"}},
            "quill train own_text '--data=my book.txt'",
        ),
        ({"seed": {"value": 1, "place": "my.toml"}, "data": BOOK}, "quill train my.toml '--data=my book.txt'"),
        (
            {"data": BOOK, "dataset": {"value": "my_book", "place": "named after the text"}},
            "quill train '--data=my book.txt'",
        ),
        ({}, None),
    ],
)
def test_the_command_that_began_a_run(told, given, command):
    assert told({"given": given}).asked() == command
    assert told({"given": given}, {"given": {"data": {"value": "other.txt", "place": "flags"}}}).asked() == command


def test_a_run_without_a_record_was_begun_by_nobody(told):
    assert told().asked() is None
    assert told().machines() == []
