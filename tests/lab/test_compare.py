"""Comparing kernels, each trained in a process of its own."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

import warm
from quillgpt.cli import main
from quillgpt.lab import compare as comparing
from quillgpt.lab.compare import Experiment, run_comparison
from quillgpt.lab.kernel_summary import RunResult, kernel_table, summarise_kernels
from quillgpt.plots.record import read_metrics
from quillgpt.tables import ResultTable

from .conftest import SMALL

FLAGS = [f"--{name}={value}" for name, value in (SMALL | {"max_iters": 12, "eval_interval": 6}).items()]


@pytest.fixture
def workplace(place, monkeypatch):
    """Work in the folder of the data set, and start runs in processes that need not import Quill anew."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "executable", str(warm.commands() / "python"))


def test_automatic_choices_are_the_same_for_all_runs_of_a_comparison(tmp_path):
    words = {name: Experiment("shakespeare_char_cpu", {}, tmp_path).arguments_of(name, 1) for name in ("SM", "GK")}
    assert all("--compile=False" in line for line in words.values())
    chosen = Experiment("shakespeare_char_cpu", {"compile": "True"}, tmp_path).arguments_of("GK", 1)
    assert [word for word in chosen if "compile" in word] == ["--compile=True"]


def test_a_comparison_runs_and_continues(workplace, tmp_path, capsys):
    words = ["lab", "compare", "shakespeare_char_cpu", *FLAGS, f"--out={tmp_path}", "--len_scale=pos"]
    assert main([*words, "--attn=SM,GKpoly-1", "--seeds=2"]) == 0, capsys.readouterr().err
    with (tmp_path / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [(run["attn_type"], run["seed"]) for run in runs] == [
        ("SM", "1337"),
        ("GKpoly-1", "1337"),
        ("SM", "1338"),
        ("GKpoly-1", "1338"),
    ]
    with (tmp_path / "kernels.csv").open() as file:
        [softmax, poly] = csv.DictReader(file)
    losses = [
        json.loads((tmp_path / f"SM-seed-{seed}" / "summary.json").read_text())["val_loss_full"]
        for seed in (1337, 1338)
    ]
    assert float(softmax["val loss"]) == pytest.approx(sum(losses) / 2)
    assert float(softmax["± SE"]) == pytest.approx(abs(losses[0] - losses[1]) / 2)
    assert float(softmax["perplexity"]) == pytest.approx(math.exp(sum(losses) / 2))
    assert float(softmax["peak MB"]) > 100
    assert (softmax["degree"], poly["degree"], poly["depth"]) == ("", "2", "4")
    assert 0 < float(poly["x < -N"]) < 1
    assert poly["x < -2N+12"] == poly["x < -N"]  # -2N+12 is above 0 for N = 2
    # The same weights to begin with, whatever the kernel; other ones with another seed.
    first = {
        name: next(row["val_loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if row["kind"] == "eval")
        for name in ("SM-seed-1337", "SM-seed-1338")
    }
    assert first["SM-seed-1337"] != first["SM-seed-1338"]
    # One kernel more: what is finished is not run again.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/summary.json")}
    assert main([*words, "--attn=SM,PA_relu,GKpoly-1", "--seeds=1"]) == 0, capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = (tmp_path / "kernels.md").read_text()
    assert "| PA_relu, len_scale = pos | 1 | 0 |" in table
    # Other settings are another comparison.
    assert main([*words, "--attn=SM", "--learning_rate=1e-4"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "holds a comparison of shakespeare_char_cpu" in said
    assert "with learning_rate = 0.01; compare" in said
    # And so is another text.
    outcome = json.loads((tmp_path / "GKpoly-1-seed-1337" / "outcome.json").read_text())
    (tmp_path / "GKpoly-1-seed-1337" / "outcome.json").write_text(json.dumps(outcome | {"data": "another"}))
    assert main([*words, "--attn=SM,GKpoly-1", "--seeds=1"]) == 2
    assert "GKpoly-1-seed-1337 is not that of the earlier runs" in " ".join(capsys.readouterr().err.split())


def test_a_preset_that_was_changed_is_another_comparison(workplace, tmp_path, capsys):
    mine = tmp_path / "mine.toml"
    mine.write_text("learning_rate = 1e-3\n")
    words = ["lab", "compare", str(mine), *FLAGS, f"--out={tmp_path / 'out'}", "--seeds=1", "--attn=SM"]
    words = [word for word in words if not word.startswith("--learning_rate")]
    assert main(words) == 0, capsys.readouterr().err
    mine.write_text("learning_rate = 1e-5\n")
    assert main(words) == 2
    assert "with learning_rate = 0.001" in " ".join(capsys.readouterr().err.split())


def test_a_penalty_goes_to_the_kernels_that_have_a_range(tmp_path):
    experiment = Experiment("shakespeare_char_cpu", {"range_penalty": "1", "range_limit": "9"}, tmp_path)
    having = {
        name: "--range_penalty=1" in experiment.arguments_of(name, 1) for name in ("SM", "GKn", "GKpoly-4", "PA_relu")
    }
    assert having == {"SM": False, "GKn": True, "GKpoly-4": True, "PA_relu": False}
    shared = [
        {key: value for key, value in experiment.settings_of(name, 1) if key not in comparing.OWN_SETTINGS}
        for name in having
    ]
    assert shared[0] == shared[1] == shared[2] == shared[3]


def test_a_run_that_is_killed_says_by_what(tmp_path, monkeypatch):
    def killed(words, log):
        log.write_text("iter 20: loss 2.1\n")
        return -9

    monkeypatch.setattr(comparing, "_train", killed)
    [outcome] = run_comparison(Experiment("shakespeare_char_cpu", {}, tmp_path), ["SM"], [1])
    assert outcome.failure == "its process was killed by signal 9 (Killed)"


def test_a_comparison_that_is_stopped_goes_on(place, tmp_path):
    flags = [*FLAGS, "--max_iters=400", "--lr_decay_iters=400", "--eval_interval=20", f"--out={tmp_path}"]
    command = [warm.quill(), "lab", "compare", "shakespeare_char_cpu", *flags]
    command += ["--attn=GK", "--seeds=1"]
    environment = os.environ | {"QUILL_QUIET": "0"}
    run = tmp_path / "GK-seed-1337"
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints").is_dir() or len(read_metrics(run / "metrics.jsonl")) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "interrupted" in words
    state = json.loads((run / "checkpoints" / "last" / "training" / "state.json").read_text())
    assert 0 < state["iteration"] < 400
    assert not (run / "outcome.json").exists()
    subprocess.run(command, cwd=place, env=environment, check=True, timeout=120, capture_output=True)
    assert (run / "outcome.json").exists()
    [*_, resumed] = read_metrics(run / "metrics.jsonl")
    assert resumed["iter"] == 400
    assert f"iteration {state['iteration']} of 400" in (tmp_path / "GK-seed-1337.log").read_text()
    log = (tmp_path / "GK-seed-1337.log").read_text()
    assert "Traceback" not in log


def test_a_run_that_fails_is_a_row_and_the_others_go_on(workplace, tmp_path, capsys):
    words = ["lab", "compare", "shakespeare_char_cpu", *FLAGS, f"--out={tmp_path}", "--attn=GK,SM", "--seeds=1"]
    assert main([*words, "--attn_path=sdpa"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "GK, seed 1337 failed: attn_path = sdpa is no way to compute GK" in said
    assert "the same command tries them again" in said
    with (tmp_path / "kernels.csv").open() as file:
        [gaussian, softmax] = csv.DictReader(file)
    assert (gaussian["failed"], gaussian["val loss"]) == ("1", "")
    assert float(softmax["val loss"]) > 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["own_text"], "own_text fits the size or length of a run to the clock"),
        (["demo", "--minutes=1"], "demo fits the size or length"),
        (["demo", "--attn_type=GK"], "--attn_type=GK is not for a comparison; give --attn"),
        (["demo", "--out_dir=x"], "--out_dir=x is not for a comparison; give --out"),
        (["demo", "--init_from=resume"], "--init_from=resume is not for a comparison"),
        (["demo", "--seeds=0"], "seeds = 0; expected a whole number above 0"),
        (["demo", "--attn=GKX"], "GKX is no attention kernel"),
    ],
)
def test_comparisons_that_are_refused(words, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "compare", *words]) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "lab").exists()


def test_means_and_errors_over_seeds():
    outcomes = [
        RunResult(attn_type="GK", seed=seed, kernel="GK", val_loss=loss, non_finite=seed)
        for seed, loss in enumerate((1.0, 1.2, 1.7))
    ]
    outcomes.append(RunResult(attn_type="GK", seed=3, kernel="GK", failure="the loss is nan"))
    [summary] = summarise_kernels(outcomes)
    assert summary.loss == pytest.approx(1.3)
    assert summary.standard_error == pytest.approx(math.sqrt((0.09 + 0.01 + 0.16) / 2 / 3))
    [row] = kernel_table("title", [summary]).rows
    assert (row["seeds"], row["failed"], row["non-finite"]) == (3, 1, 3)


def test_tables_for_screens_markdown_and_programs():
    rows = [{"name": "a|b", "loss": 1.23456}, {"name": "c", "loss": None}, {"name": "d", "loss": math.inf}]
    table = ResultTable("Title", {"name": "s", "loss": ".2f"}, rows)
    assert table.text() == "Title\nname  loss\na|b   1.23\nc        -\nd      inf"
    assert table.markdown() == "Title\n\n| name | loss |\n|---|---|\n| a\\|b | 1.23 |\n| c | - |\n| d | inf |\n"
    assert table.csv() == "name,loss\na|b,1.23456\nc,\nd,inf\n"
