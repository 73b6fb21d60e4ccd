"""Whether a difference between runs is more than seeds explain."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean, stdev

import pytest

from quillgpt.runs.comparison import (
    ComparedRun,
    common_end,
    compare,
    measure_for,
    open_run,
    scoring_of,
    siblings,
    spread_of,
)
from quillgpt.runs.comparison_report import chart, results, rows, sentences, settings_table
from runs.folders import a_run, evaluation


def trained(
    folder: Path,
    loss: float,
    *,
    settings: str = "",
    seed: int = 1,
    iterations: int = 50,
    error: float | None = 0.01,
    fingerprint: str = "text",
    tokenizer: str = "char",
    finished: bool = True,
) -> ComparedRun:
    lines = [evaluation(i, loss + (iterations - i) / 10) for i in range(0, iterations + 1, 10)]
    summary = {"iterations": iterations, "val_loss_full": loss + 0.5}
    summary |= {} if error is None else {"val_standard_error": error}
    a_run(folder, *lines, settings=f"seed = {seed}\n{settings}\n", summary=summary if finished else None)
    (folder / "checkpoints" / "best").mkdir(parents=True)
    about = {"data_fingerprint": fingerprint, "tokenizer_fingerprint": tokenizer}
    (folder / "checkpoints" / "best" / "config.json").write_text(json.dumps({"quill": about}))
    return open_run(folder.name, folder)


def compared(runs: list[ComparedRun], others: tuple[ComparedRun, ...] = ()):  # type: ignore[no-untyped-def]
    measure = measure_for(runs)
    assert measure is not None
    scoring = scoring_of(runs, measure)
    assert scoring is not None
    return compare(runs, scoring, others)


def test_spread_is_pooled_over_groups() -> None:
    assert spread_of([{"a": 1.0}, {"b": 2.0}]) is None
    one = spread_of([{"a": 1.0, "b": 2.0, "c": 4.0}, {"d": 9.0}])
    assert one is not None
    assert (one.deviation, one.degrees, one.names) == (pytest.approx(stdev([1, 2, 4])), 2, ("a", "b", "c"))
    assert one.margin(3, 1) == pytest.approx(4.3027 * one.deviation * math.sqrt(1 / 3 + 1), rel=1e-4)
    two = spread_of([{"a": 1.0, "b": 3.0}, {"c": 10.0, "d": 10.0, "e": 10.0}])
    assert two is not None
    assert (two.deviation**2, two.degrees) == (pytest.approx(2 / 3), 3)


def test_equal_settings_are_told_apart_in_one_of_twenty_comparisons() -> None:
    chance = random.Random(1)
    told = 0
    for _ in range(4000):
        values = [chance.gauss(3, 0.02) for _ in range(5)]
        groups = [dict(zip("abc", values[:3], strict=True)), dict(zip("de", values[3:], strict=True))]
        spread = spread_of(groups)
        assert spread is not None
        told += abs(fmean(values[:3]) - fmean(values[3:])) > spread.margin(3, 2)
    assert 0.04 < told / 4000 < 0.06


@pytest.mark.parametrize(("worse", "verdict"), [(0.5, "worse"), (-0.5, "better"), (0.01, "no difference can be told")])
def test_verdict_of_groups(tmp_path: Path, worse: float, verdict: str) -> None:
    runs = [trained(tmp_path / f"a{seed}", 2 + seed / 100, seed=seed) for seed in (1, 2, 3)]
    runs.append(trained(tmp_path / "b", 2.02 + worse, settings="n_layer = 3"))
    comparison = compared(runs)
    [difference] = comparison.differences
    assert (difference.first, difference.second) == (("a1", "a2", "a3"), ("b",))
    assert difference.value == pytest.approx(worse)
    assert difference.verdict == verdict
    assert comparison.scoring.by is None
    said = sentences(comparison, runs)
    direction = "lower" if worse < 0 else "higher"
    assert said[0].startswith(
        f"b is {abs(worse):.4f} {direction} than a1 and a2 and a3: {2.52 + worse:.4f} and 2.5200 nats"
    )
    assert ("seeds explain: " + ("no difference can be told" if verdict.startswith("no") else verdict)) in said[1]
    assert said[2] == "seeds: standard deviation 0.0100, measured on a1, a2, a3"
    assert said[3].startswith("text: standard error 0.0100 (a1), 0.0100 (a2), 0.0100 (a3), 0.0100 (b); ")
    [row] = rows(comparison)
    assert (row["verdict"], row["by_iteration"], row["seeds_runs"]) == (verdict, None, ["a1", "a2", "a3"])


def test_without_a_second_seed_nothing_is_claimed(tmp_path: Path) -> None:
    runs = [trained(tmp_path / "a", 2.0, error=None), trained(tmp_path / "b", 1.0, settings="n_layer = 3", error=None)]
    comparison = compared(runs)
    assert comparison.differences[0].verdict == "not known"
    said = sentences(comparison, runs)
    assert said[0].startswith("b is 1.0000 lower than a")
    assert "how much they matter is not known; train one of these again with another --seed" in said[1]
    assert "standard error is not recorded" in said[2]


def test_runs_beside_them_tell_the_spread_and_nothing_else(tmp_path: Path) -> None:
    runs = [trained(tmp_path / "a", 2.0), trained(tmp_path / "b", 1.0, settings="n_layer = 3")]
    trained(tmp_path / "a-again", 2.01, seed=2)
    trained(tmp_path / "a-begun", 2.9, seed=3, finished=False)
    trained(tmp_path / "a-copy", 2.0)
    trained(tmp_path / "other", 9.0, settings="n_layer = 9", seed=2)
    beside = siblings({run.name: tmp_path / run.name for run in runs}, runs)
    assert sorted(run.name for run in beside) == ["a-again", "a-begun"]
    comparison = compared(runs, tuple(beside))
    assert comparison.spread is not None
    assert comparison.spread.names == ("a", "a-again")
    assert comparison.differences[0].first == ("a",)
    assert comparison.differences[0].values == pytest.approx((2.5, 1.5))
    assert comparison.differences[0].verdict == "better"


def test_unfinished_runs_are_compared_at_equal_iterations(tmp_path: Path) -> None:
    short = trained(tmp_path / "a", 2.0, iterations=30, finished=False)
    long = trained(tmp_path / "b", 1.0, settings="n_layer = 3")
    comparison = compared([short, long])
    assert comparison.scoring.by == 30
    assert comparison.differences[0].values == pytest.approx((2.0, 3.0))
    assert "until iter 30" in sentences(comparison, [short, long])[0]
    assert common_end([short, long], "seconds") == 60
    header, first, second = results([short, long], "nats per token").text().splitlines()[1:]
    assert header.split()[-6:] == ["by", "iter", "30", "by", "1:00"][-6:] or header.endswith("by iter 30  by 1:00")
    assert first.split() == ["a", "interrupted", "1", "30", "1.0", "2.0000", "-", "2.0000", "2.0000"]
    assert second.split() == ["b", "finished", "1", "50", "1.7", "1.0000", "1.5000", "3.0000", "3.0000"]


def test_which_numbers_can_be_compared(tmp_path: Path) -> None:
    a = trained(tmp_path / "a", 2.0, settings='dataset = "x"')
    other_text = trained(tmp_path / "b", 2.0, settings='dataset = "y"', fingerprint="other")
    other_tokens = trained(tmp_path / "c", 2.0, settings='dataset = "x"', fingerprint="tokens", tokenizer="bpe")
    assert measure_for([a, a]) == "nats per token"
    assert measure_for([a, other_text]) is None
    assert measure_for([a, other_tokens]) == "bits per byte"
    comparison = compared([a, other_tokens])
    assert comparison.differences == []  # the settings are equal
    assert comparison.scoring.of(a) == pytest.approx(1.0)
    nothing = open_run("none", a_run(tmp_path / "none", settings=""))
    assert scoring_of([a, nothing], "nats per token") is None


def test_settings_and_curves_side_by_side(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path / "a", 2.0),
        trained(tmp_path / "b[i]", 1.0, settings='n_layer = 3\ndevice = "cu\\u001bda"'),
    ]
    table = settings_table(runs)
    assert table is not None
    assert [line.split() for line in table.text().splitlines()[1:]] == [
        ["setting", "a", "b[i]"],
        ["n_layer", "12", "3"],
        ["device", "auto", "cu\\x1bda"],
    ]
    assert settings_table(runs[:1]) is None
    drawn = chart(runs, "nats per token", "seconds", width=80, encoding="utf-8")
    assert "· a   • b[i]" in drawn
    assert drawn.count("•") > 10
    assert drawn.count("·") > 10
