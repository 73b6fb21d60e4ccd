"""Settings that differ from their defaults are shown by the places that set them."""

from pathlib import Path

import pytest

from quillgpt.config import Given, TrainSettings, resolve_given, settings_by_place


def test_each_setting_stands_by_the_place_that_won(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text('extends = "demo"\nn_layer = 2\nseed = 1\ndropout = 0.0\n')
    Path(".env").write_text("QUILL_SEED=2\nQUILL_EVAL_ITERS=none\n")
    flags = {"data": "My Tale.txt", "max_iters": "9", "beta1": "0.9"}
    given = resolve_given("run.toml", flags, environ={"QUILL_SEED": "3"})
    chosen = given.settings.model_copy(update={"device": "cpu", "max_iters": 7})
    rows = settings_by_place(chosen, given, otherwise="chosen")
    assert list(rows)[-1] == "chosen"
    assert rows["chosen"] == 'max_iters = 7, device = "cpu"'
    assert rows["flags"] == 'data = "My Tale.txt"'  # beta1 is the default
    assert rows["environment"] == "seed = 3"
    assert rows[".env"] == 'eval_iters = "none"'
    assert rows["run.toml"] == "n_layer = 2"
    assert rows["named after the text"] == 'out_dir = "out-my_tale", dataset = "my_tale"'
    presets = [row for place, row in rows.items() if place.startswith("preset ")]
    assert 'arch = "qwen3"' in ", ".join(presets)
    assert "n_layer" not in ", ".join(presets)


def test_together_they_are_all_that_is_not_the_default() -> None:
    given = resolve_given("shakespeare_char", {"out_dir": "x"}, environ={}, dotenv=None)
    shown = ", ".join(settings_by_place(given.settings, given, otherwise="chosen").values())
    names = {part.partition(" = ")[0] for part in shown.split(", ")}
    usual = TrainSettings()
    assert names == {name for name, value in given.settings if value != getattr(usual, name)}


def test_a_program_gives_no_places() -> None:
    settings = TrainSettings(n_layer=2)
    assert settings_by_place(settings, Given(settings), otherwise="chosen") == {"given": "n_layer = 2"}
