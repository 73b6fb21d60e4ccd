"""What an earlier version wrote opens, has the same loss, and is resumed as that version would have resumed it."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equality import assert_equal_tensors
from quillgpt.cli import main
from quillgpt.config import resolve
from quillgpt.training import Interruption, train
from quillgpt.training.cuda_graph import make_step
from quillgpt.training.start.setup import set_up
from quillgpt.training.trainer import Trainer
from tolerances import FLOAT32, SAME_RUN_ELSEWHERE
from training.conftest import allow_float16

from .records import machine, rows, state_of, tensors_of, tensors_sha256

HERE = Path(__file__).parent
RECORD = json.loads((HERE / "record.json").read_text(encoding="utf-8"))
SAME_MACHINE = machine() == RECORD["machine"]
"""Whether sums are rounded here as they were there; elsewhere the last bits differ, and grow as a run goes on."""

MADE_IN = "/quill/make"
"""Some records name absolute paths: sources of data sets, and the model that adapters belong to."""

OF_A_LOSS, OF_A_RUN = (0.0, 0.0) if SAME_MACHINE else (FLOAT32["rtol"], SAME_RUN_ELSEWHERE)

RUNS = sorted(RECORD["runs"])


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all that was written, which is the current folder."""
    shutil.copytree(HERE / "written", tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def differences(new: Any, old: Any, path: str = "", *, within: float = 0.0) -> Iterator[str]:
    """Yield what is not as it was; keys may have been added, and numbers may differ by a share of themselves."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            yield from differences(new.get(key, "nothing"), old[key], f"{path}.{key}", within=within)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(new, old, strict=True)):
            yield from differences(one, other, f"{path}[{number}]", within=within)
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(new, old, rel_tol=within):
            yield f"{path}: {new!r}, but it was {old!r}"
    elif new != old:
        yield f"{path}: {new!r}, but it was {old!r}"


def results(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main([*words, "--threads=1", "--device=cpu", "--dtype=float32", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("model", RECORD["models"])
def test_a_model_opens_and_has_the_same_loss(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(HERE / "written")
    expected = RECORD["models"][model]
    assert main(["info", model]) == 0
    capsys.readouterr()
    dataset = ["--dataset=verse"] if model == "exported/nanogpt" else []
    losses = {found["split"]: found["loss"] for found in results(capsys, "eval", model, *dataset)}
    assert not list(differences(losses, expected["losses"], within=OF_A_LOSS))
    if SAME_MACHINE:
        found = results(capsys, "sample", model, "--temperature=0", "--num_samples=1", "--max_new_tokens=24")
        assert found[0]["text"] == expected["sample"]


@pytest.mark.parametrize("run", [run for run in RUNS if run != "minutes"])
def test_a_run_is_resumed_to_the_same_end(run: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if run == "half":
        allow_float16(monkeypatch)
    expected, folder = RECORD["runs"][run], written / "runs" / run
    assert main(expected["command"]) == 0
    last = folder / "checkpoints" / "last"
    assert not list(differences(rows(folder / "metrics.jsonl"), expected["metrics"], "metrics", within=OF_A_RUN))
    assert not list(differences(state_of(last), expected["state"], "state", within=OF_A_RUN))
    if SAME_MACHINE:
        assert tensors_sha256(last) == expected["tensors"]


@pytest.mark.parametrize("run", ["average", "polynomial"])
def test_a_run_started_over_with_its_settings_comes_to_the_same_end(run: str, written: Path) -> None:
    expected, folder = RECORD["runs"][run], written / "runs" / run
    assert main(["train", f"runs/{run}/config.toml", "--overwrite"]) == 0
    assert not list(differences(rows(folder / "metrics.jsonl"), expected["metrics"], "metrics", within=OF_A_RUN))
    if SAME_MACHINE:
        assert tensors_sha256(folder / "checkpoints" / "last") == expected["tensors"]


def test_a_run_that_has_minutes_goes_on_with_the_same_losses_for_as_long_as_they_last(written: Path) -> None:
    settings = resolve("runs/minutes/config.toml", {"init_from": "resume"}, environ={}, dotenv=None)
    assert settings.minutes == 1
    train(settings, started=time.perf_counter() - 50)
    found, expected = rows(Path("runs/minutes/metrics.jsonl")), RECORD["runs"]["minutes"]["metrics"]
    trained, before = ([row for row in each if row["kind"] == "train"] for each in (found, expected))
    assert len(trained) > 6
    assert not list(differences(trained[: len(before)], before[: len(trained)], within=OF_A_RUN))


@pytest.mark.parametrize("run", RUNS)
def test_a_checkpoint_that_is_loaded_and_saved_again_is_the_same(
    run: str, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if run == "half":
        allow_float16(monkeypatch)
    settings = resolve(f"runs/{run}/config.toml", {"init_from": "resume"}, environ={}, dotenv=None)
    run_of_today = set_up(settings)
    trainer = Trainer(run_of_today, make_step(run_of_today), interruption=Interruption(), started=0.0, occupation=None)
    before, after = (place / "runs" / run / "checkpoints" / "last" for place in (HERE / "written", written))
    shutil.rmtree(after.resolve())
    trainer.checkpointer.forget()
    assert trainer.save()
    one, other = tensors_of(before), tensors_of(after)
    assert one.keys() == other.keys()
    for name, tensors in one.items():
        assert_equal_tensors(tensors, other[name])
    old = state_of(before)
    # What is unset when a run begins, such as vocab_size, is filled in from the model when it goes on.
    old["settings"] = {name: value for name, value in old["settings"].items() if value is not None}
    assert not list(differences(state_of(after), old))
    for path in before.glob("**/*.json"):
        if path.name not in ("manifest.json", "state.json"):
            new, old = (
                json.loads(each.read_text(encoding="utf-8")) for each in (after / path.relative_to(before), path)
            )
            assert not list(differences(new, old, path.name))


@pytest.mark.parametrize("words", RECORD["data"], ids=lambda words: words[0])
def test_a_text_prepared_anew_becomes_the_same_data_set(words: list[str], written: Path) -> None:
    name = next((word.removeprefix("--dataset=") for word in words if "--dataset" in word), Path(words[0]).stem)
    made, kept = written / "data" / name, HERE / "written" / "data" / name
    shutil.rmtree(made)
    assert main(["prepare", *words]) == 0
    assert {path.name for path in made.iterdir()} >= {path.name for path in kept.iterdir()}
    for file in ("train.bin", "val.bin", "tokenizer.json", "tokenizer_config.json"):
        assert (made / file).read_bytes() == (kept / file).read_bytes()
    described = (made / "dataset.json").read_text(encoding="utf-8").replace(str(written), MADE_IN)
    assert not list(differences(json.loads(described), json.loads((kept / "dataset.json").read_text(encoding="utf-8"))))


def test_a_data_set_is_used_as_it_is(written: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in (written / "data").glob("*/*")}
    for words in RECORD["data"]:
        assert main(["prepare", *words]) == 0
    assert {path: path.stat().st_mtime_ns for path in (written / "data").glob("*/*")} == files
