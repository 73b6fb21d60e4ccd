"""In which settings runs differ, and which belong together."""

from __future__ import annotations

from pathlib import Path

from quillgpt.config import to_toml
from quillgpt.config.schema import TrainFields
from quillgpt.runs.differences import grouped_by_seeds, same_but_for_seed, settings_that_differ
from quillgpt.runs.small_files import read_settings

BASE = {"n_layer": 4, "seed": 1, "out_dir": "a", "learning_rate": 0.001}


def test_settings_that_differ_have_the_value_of_each_run() -> None:
    runs = {
        "a": BASE,
        "b": BASE | {"learning_rate": 0.002, "out_dir": "b", "dropout": 0.0, "of_a_later_version": 1},
        "c": BASE | {"dropout": 0.1},
        "only a record": {},
    }
    assert settings_that_differ(runs) == {
        "dropout": {"a": 0.0, "b": 0.0, "c": 0.1},
        "learning_rate": {"a": 0.001, "b": 0.002, "c": 0.001},
        "of_a_later_version": {"a": None, "b": 1, "c": None},
    }
    assert next(iter(settings_that_differ(runs, leave_out=[]))) == "out_dir"
    assert settings_that_differ({"a": BASE}) == settings_that_differ({}) == {}


def test_a_resumed_run_does_not_say_what_it_began_from() -> None:
    runs = {"a": {"init_from": "scratch"}, "b": {"init_from": "resume"}}
    assert settings_that_differ(runs) == {}
    assert settings_that_differ(runs | {"c": {"init_from": "gpt2"}}) == {"init_from": {"a": "scratch", "c": "gpt2"}}


def test_what_config_toml_leaves_out_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(TrainFields(minutes=None, sample_prompt=None)), encoding="utf-8")
    content = read_settings(tmp_path)
    assert "minutes" not in content
    assert settings_that_differ({"written": content, "by default": {"n_layer": 12}}) == {}


def test_runs_that_differ_in_their_seed_belong_together() -> None:
    runs = {
        "a1": BASE,
        "b1": BASE | {"learning_rate": 0.002},
        "a2": BASE | {"seed": 2, "threads": 8, "micro_batch_size": 3, "wandb_run_name": "x"},
        "b2": BASE | {"learning_rate": 0.002, "seed": 2},
        "unknown": {},
        "unknown too": {},
    }
    assert grouped_by_seeds(runs) == [("a1", "a2"), ("b1", "b2"), ("unknown",), ("unknown too",)]


def test_a_length_that_follows_the_clock_is_no_difference() -> None:
    short, long = BASE | {"max_iters": 90}, BASE | {"max_iters": 100, "seed": 2}
    assert not same_but_for_seed(short, long)
    assert same_but_for_seed(short | {"minutes": 5.0}, long | {"minutes": 5.0})
    assert not same_but_for_seed(short | {"minutes": 5.0}, long | {"minutes": 6.0})
