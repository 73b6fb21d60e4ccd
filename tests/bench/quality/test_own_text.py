"""`quill bench own_text` runs every candidate once, records it at once, and goes on where it was interrupted."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import warm
from in_process import Here
from quillgpt.bench.quality import at_rate, benchmark, processes, quill_run
from quillgpt.bench.quality.benchmark import Plan, bench_own_text, files_meant
from quillgpt.bench.quality.grid import neighbours
from quillgpt.bench.quality.quill_run import Run
from quillgpt.bench.quality.record import Cell, Record, Result
from quillgpt.bench.quality.report import compare, conclusions, results_table
from quillgpt.bench.quality.scoring import Price
from quillgpt.bench.quality.texts import TEXTS
from quillgpt.cli import main
from quillgpt.config import resolve
from quillgpt.data.batches import Tokens
from quillgpt.errors import ConfigError, DataError, UserError
from quillgpt.training.planning import budget
from quillgpt.training.planning.scaling import Text
from quillgpt.training.start.choices import Machine
from quillgpt.training.start.starting_point import StartingPoint

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "two", "birds"]
TINY = [
    "--eval_iters=2",
    "--n_layer=1",
    "--n_head=1",
    "--n_embd=16",
    "--block_size=16",
    "--device=cpu",
    "--threads=1",
    "--compile=False",
]


def plan_of(texts: list[str], **values: Any) -> Plan:
    return Plan(texts, **{"floor": False} | values)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(1)
    lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(1500)]
    path = tmp_path / "birds.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let candidates run at no cost; the list has what has run."""
    done: list[str] = []

    def run_quill(split: Any, budget: Any, flags: dict[str, str], folder: Path) -> Run:
        done.append(f"{split.name} {budget.minutes:g} {flags}")
        chosen = {"tokenizer": "char", "n_layer": 2, "n_embd": 48, "n_head": 1, "block_size": 64, "batch_size": 8}
        chosen |= {"gradient_accumulation_steps": 1, "learning_rate": 0.01, "muon_learning_rate": 0.015}
        chosen |= {"dropout": 0.0, "weight_decay": 0.1, "parameters": 60_000}
        return Run(
            Price(2.5 * split.held_bytes if flags.get("batch_size") != "4" else 2.0 * split.held_bytes), 1.0, chosen
        )

    monkeypatch.setattr(benchmark, "run_quill", run_quill)
    return done


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="commands are forked on Linux only")
def test_the_command_trains_within_operations_and_scores_the_held_out_part(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quill_run.sys, "executable", str(warm.commands() / "python"))
    monkeypatch.setattr(quill_run, "Worker", Here)
    record = tmp_path / "record.jsonl"
    words = [
        "bench",
        "own_text",
        str(text),
        "--no-floor",
        "--minutes=0.01",
        "--rate=0.002",
        f"--record={record}",
        "--json",
        *TINY,
    ]
    assert main(words) == 0
    (row,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (row["text"], row["candidate"], row["minutes"], row["rate"]) == ("birds", "quill", 0.01, 2e9)
    assert row["train_bytes"] + row["held_bytes"] == text.stat().st_size
    assert 0.5 < row["bits_per_byte"] < 8
    assert row["chosen"]["n_embd"] == 16
    assert row["chosen"]["tokenizer"]
    assert row["chosen"]["iterations"] == row["chosen"]["max_iters"] > 10
    assert json.loads(record.read_text()) | {"what": "own_text"} == row
    monkeypatch.setattr(quill_run, "Worker", None)  # nothing runs again
    assert main(words) == 0
    assert json.loads(capfd.readouterr().out) == row


@pytest.mark.parametrize("minutes", [0.2, 1, 30])
@pytest.mark.parametrize("tokens", [20_000, 5_000_000])
def test_at_a_rate_the_settings_are_those_of_a_machine_that_fast(
    minutes: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 2e11
    settings = resolve("own_text", {"minutes": minutes}, environ={}, dotenv=None)
    text = Text(tokens, tokens // 10, "bpe:1024", 1024)
    monkeypatch.setattr(budget, "measured_rate", lambda *_, **__: rate)
    monkeypatch.setattr(budget, "SHARE_FOR_TRAINING", 1.0)
    start = StartingPoint(settings, Machine(torch.device("cpu"), torch.float32), None, None)
    start, config = budget.choose_context(start, text)
    unread: Tokens = None  # type: ignore[assignment]
    expected, _ = budget.fit_to_budget(start, text, unread, config)
    assert at_rate.scaled_to(settings, text, 60 * minutes * rate) == expected


def test_an_interrupted_benchmark_goes_on_where_it_stopped(text: Path, tmp_path: Path, runs: list[str]) -> None:
    path = tmp_path / "record.jsonl"
    plan = plan_of([str(text)], minutes=[1, 3], seeds=[1, 2])
    before = bench_own_text(replace(plan, minutes=[1]), Record(path))
    assert len(runs) == 2
    with path.open("a") as file:
        file.write('{"text": "birds", "sha')  # killed while it wrote
    after = bench_own_text(plan, Record(path))
    assert len(runs) == 4
    assert after[:2] == before
    assert [(result.minutes, result.seed) for result in after] == [(1, 1), (1, 2), (3, 1), (3, 2)]
    assert bench_own_text(plan, Record(path)) == after
    assert len(runs) == 4


def test_another_text_of_the_name_and_other_flags_are_other_cells(text: Path, runs: list[str]) -> None:
    record = Record(None)
    bench_own_text(plan_of([str(text)], minutes=[1]), record)
    bench_own_text(plan_of([str(text)], minutes=[1], flags={"ema_decay": "0.99"}), record)
    text.write_text(text.read_text() + "more\n")
    bench_own_text(plan_of([str(text)], minutes=[1]), record)
    bench_own_text(plan_of([str(text)], minutes=[1], rate=1e12), record)
    assert len(runs) == 4


def test_a_candidate_that_fails_is_named_and_tried_again(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Run:
        raise UserError("quill train failed with exit status 2: error: no memory")

    monkeypatch.setattr(benchmark, "run_quill", fail)
    path = tmp_path / "record.jsonl"
    for _ in range(2):
        (result,) = bench_own_text(plan_of([str(text)], minutes=[1], grid=["batch"]), Record(path))
        assert result.bits_per_byte is None
        assert result.error is not None
    assert len(path.read_text().splitlines()) == 2
    assert "birds, 1 min, quill: quill train failed" in " ".join(capfd.readouterr().err.split())


def test_the_grid_changes_one_thing_at_a_time(text: Path, runs: list[str]) -> None:
    kinds = ("size", "tokenizer", "regularization", "batch", "rates")
    results = bench_own_text(plan_of([str(text)], minutes=[1], grid=kinds), Record(None))
    names = [result.candidate.removeprefix("quill: ") for result in results[1:]]
    assert names == [
        *("a larger model", "more regularization", "half the batch", "twice the batch", "rates x0.7", "rates x1.4"),
        *("byte", "bpe:512"),
    ]
    chosen = results[0].chosen
    grid = neighbours(chosen, 30, kinds)
    fixed = {name: f"{value}" for name, value in chosen.items() if name != "parameters"} | {"dropout": "0"}
    assert grid["half the batch"] == fixed | {"batch_size": "4"}
    assert grid["rates x1.4"] == fixed | {"learning_rate": "0.014", "muon_learning_rate": "0.021"}
    larger = grid["a larger model"]
    assert (larger["n_layer"], larger["n_embd"]) == ("3", "64")
    assert "n_head" not in larger
    assert grid["bpe:512"] == {"tokenizer": "bpe:512"}
    assert list(neighbours(chosen | {"tokenizer": "bpe:512"}, 3000, ["tokenizer"])) == ["byte", "bpe:1024"]
    assert list(neighbours(chosen | {"tokenizer": "bpe:2048"}, 90, ["tokenizer"])) == [
        *("char", "byte", "bpe:1024", "bpe:4096"),
    ]
    (comparison,) = compare(results)
    assert comparison.best == ("half the batch", 2.0)
    assert comparison.regret == pytest.approx(0.25)


def result(
    candidate: str, bits: float, *, minutes: float | None = 1, seed: int | None = 1, text: str = "bible"
) -> Result:
    cell = Cell(text, f"hash of {text}", candidate, minutes, None, seed)
    chosen = {"tokenizer": "char", "parameters": 100}
    return Result(**vars(cell), train_bytes=9000, held_bytes=1000, bits_per_byte=bits, chosen=chosen)


def test_the_table_has_means_over_seeds_and_says_who_is_ahead() -> None:
    results = [
        result("xz -9e", 2.4, minutes=None, seed=None),
        result("PPMd", 1.9, minutes=None, seed=None),
        result("quill", 2.0),
        result("quill", 2.2, seed=2),
        result("quill: a larger model", 2.3),
        result("nanogpt", 2.5),
        result("quill", 1.8, minutes=3),
        result("nanogpt", 1.7, minutes=3),
        result("quill", 3.0, text="mine"),
    ]
    comparisons = compare(results)
    table = results_table(comparisons)
    assert [row["quill"] for row in table.rows] == pytest.approx([2.1, 1.8, 3.0])
    assert [row["for"] for row in table.rows] == ["held", "held", "other"]
    assert table.rows[0]["regret"] == 0
    assert table.rows[2]["nanogpt"] is None
    lines = conclusions(comparisons)
    assert lines == [
        "Regret against the grid on held texts: 0.0% in the mean of 1, 0.0% at worst (bible, 1 min).",
        "nanogpt is ahead on 1 of 2: bible (3 min).",
        "xz -9e is ahead on 0 of 2.",
        "PPMd is ahead on 1 of 2: bible (1 min).",
    ]


def test_runs_at_a_rate_and_with_other_flags_have_rows_of_their_own() -> None:
    first = result("quill", 2.0)
    results = [first, replace(first, rate=2.5e11), replace(first, flags={"ema_decay": "0.9"}, bits_per_byte=1.9)]
    table = results_table(compare(results))
    assert [(row["TFLOP/s"], row["with"], row["quill"]) for row in table.rows] == [
        (None, "", 2.0),
        (0.25, "", 2.0),
        (None, "--ema_decay=0.9", 1.9),
    ]
    assert "with" not in results_table(compare(results[:2])).formats


def test_a_record_is_printed_as_markdown_and_nothing_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = Record(tmp_path / "record.jsonl")
    record.add(result("quill", 2.0))
    assert main(["bench", "own_text", f"--record={tmp_path / 'record.jsonl'}", "--markdown"]) == 0
    assert "| bible | held | 0.01 | 1 | char | 100 | 2.0000 | 1 |" in capfd.readouterr().out


def test_texts_are_named_by_use_name_file_or_folder(text: Path, tmp_path: Path) -> None:
    assert list(files_meant([])) == list(TEXTS)
    assert list(files_meant(["held"])) == [name for name, known in TEXTS.items() if known.use == "held"]
    assert files_meant(["bible", str(tmp_path)]) == {"bible": None, "birds": text}
    with pytest.raises(DataError, match=r"bibel is neither .* did you mean bible"):
        files_meant(["bibel"])
    with pytest.raises(ConfigError, match="two texts have the name bible"):
        files_meant(["held", "bible"])


def test_a_text_that_cannot_be_made_here_is_left_out(
    text: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str) -> Path:
        raise DataError("there is no apt-get here")

    monkeypatch.setattr(benchmark, "text_file", fail)
    assert len(bench_own_text(plan_of(["bible", str(text)], minutes=[1, 3]), Record(None))) == 2
    assert capfd.readouterr().err.count("the text bible is left out") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--minutes=0"], "minutes = '0'; expected numbers above 0"),
        (["--minutes=soon"], "minutes = 'soon'; expected numbers above 0"),
        (["--rate=-1"], "rate = -1; expected a number above 0"),
        (["--grid=sizes"], "--grid sizes is unknown; expected all or size, .* did you mean size"),
        (["--markdown"], "name it with --record=FILE"),
        (["--seed=1,x"], "--seed=x must be a whole number"),
        (["--peer=nanogpt=nowhere"], "model.py does not exist; give the folder of a nanoGPT checkout"),
        (["--n_layer=0"], "n_layer"),
        (["--record=nowhere/record.jsonl", "--markdown"], "record.jsonl cannot be read .No such file"),
        (["--record=/proc/record.jsonl"], "cannot be written"),
        (["--peer=transformers"], "expected nanogpt=PATH"),
        (["nowhere.txt"], "nowhere.txt is neither a file, a folder, nor a text of the benchmark"),
    ],
)
def test_what_cannot_be_meant_is_one_line(words: list[str], complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "own_text", *words]) in (1, 2)
    error = " ".join(capfd.readouterr().err.split())
    assert re.search(complaint, error), error


def test_another_file_is_not_taken_for_a_record(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(DataError, match="is no record of quill bench own_text"):
        Record(path)
    assert path.read_text() == "my notes\n"


def test_a_failing_command_is_reported_by_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it failed with exit status 3: the reason"):
        processes.run_to_the_end(["sh", "-c", "echo one; echo the reason >&2; exit 3"], "it", folder=tmp_path)
    assert processes.run_to_the_end(["echo", "fine"], "it", folder=tmp_path) == "fine\n"
