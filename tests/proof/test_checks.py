"""The checks: run by the command line, and on broken runs that they must notice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

import warm
from quillgpt.api import load
from quillgpt.generation import prompt_ids
from quillgpt.model import KeyValueCache
from quillgpt.ownership import RECORD
from quillgpt.proof import damage, numbers
from quillgpt.proof.outcome import CannotRun, Refuted
from quillgpt.proof.prove import CHECKS, run_checks
from quillgpt.proof.proved_model import proved_models
from quillgpt.proof.ranks import largest_difference
from quillgpt.proof.sandbox import environment

CPU = {"device": "cpu", "dtype": "float32", "threads": "1"}


def test_a_run_on_a_full_disk_through_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(warm.commands() / "python"))
    monkeypatch.setattr(damage, "can_mount", lambda _: False)  # where it can, the deep test below does
    (outcome,) = run_checks(
        proved_models(None, CPU)[:1], out_dir=tmp_path, command="quill prove", checks=["full disk survived"]
    )
    assert outcome.status == "pass", outcome.figure
    assert outcome.figure.startswith("an injected ENOSPC")
    assert "0 of 51 rows differ" in outcome.figure
    assert capsys.readouterr().out.startswith("pass    full disk survived: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RECORD, "proof.json", "proof.md"]


def test_two_ranks_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(warm.commands() / "python"))
    (outcome,) = run_checks(
        proved_models(None, CPU)[:1], out_dir=tmp_path, command="quill prove", checks=["two ranks equal one"]
    )
    assert outcome.status == "pass", outcome.figure
    assert outcome.figure.startswith("a rank killed after iter ")


def test_losses_of_runs_that_differ_are_noticed(runs: Any) -> None:
    one, other = runs
    assert largest_difference(one.folder, other.folder) == 0
    other.record([{"kind": "train", "iter": 1, "loss": 5.5}])
    assert largest_difference(one.folder, other.folder) == 0.5
    other.record([{"kind": "train", "iter": 2, "loss": 5.0}])
    with pytest.raises(Refuted, match="different iterations"):
        largest_difference(one.folder, other.folder)


@pytest.mark.deep
def test_the_whole_proof(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "quillgpt", "prove"], cwd=tmp_path, env=environment())
    rows = json.loads((tmp_path / "proof/proof.json").read_text())
    assert {row["name"]: row["figure"] for row in rows if row["status"] == "fail"} == {}
    assert done.returncode == 0
    assert len(rows) == len(CHECKS)
    assert sum(row["status"] == "pass" for row in rows) >= 8


def test_a_flipped_bit_of_a_manifest_is_in_its_list_of_files() -> None:
    sandbox: Any = SimpleNamespace(draw=Random(1))
    manifest = b'{"format_version": 1, "files": {"config.json": {"bytes": 5}}}'
    for content, first in ((manifest, manifest.index(b'"files"')), (b"\0" * 50, 0)):
        for _ in range(200):
            flipped = damage.flip_bit(sandbox, content)
            changed = [place for place, pair in enumerate(zip(content, flipped, strict=True)) if pair[0] != pair[1]]
            assert len(changed) == 1
            assert changed[0] >= first
            assert (content[changed[0]] ^ flipped[changed[0]]).bit_count() == 1


def test_recomputing_notices_another_token_and_a_wrong_cache(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(runs[0].folder, device="cpu", dtype="float32", threads=1)
    prompt = prompt_ids(model.tokenizer, "abcd", starts_with_end_of_text=False)[1]
    ids = model.generate("abcd", max_new_tokens=6, temperature=0)[0].ids
    again, error = numbers.recomputed(model, prompt, ids)
    assert again == ids
    assert error <= 1e-5
    other = [*ids[:3], (ids[3] + 1) % 256, *ids[4:]]
    assert numbers.recomputed(model, prompt, other)[0] != other

    monkeypatch.setattr(KeyValueCache, "advance", lambda self, positions: None)
    assert numbers.recomputed(model, prompt, ids)[1] > 1e-3


def test_without_transformers_its_check_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(CannotRun, match="transformers is not installed"):
        numbers.opens_in_transformers(None)  # type: ignore[arg-type]
