import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from quillgpt.checkpoint import load_model, save_model
from quillgpt.checkpoint import names as naming
from quillgpt.checkpoint.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from quillgpt.checkpoint.manifest import MANIFEST, USUAL
from quillgpt.checkpoint.names import (
    BEST,
    LAST,
    drop_checkpoints_after,
    find_models,
    has_checkpoint,
    numbered,
    point,
    prune,
)
from quillgpt.checkpoint.save import OWN_TEACHERS, RAW_WEIGHTS
from quillgpt.errors import CheckpointError
from quillgpt.ownership import files_below
from quillgpt.text.tokenizers.char import CharTokenizer
from tiny import GPT2, tiny_model


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def embedding(path):
    return load_model(path).model.token_embedding.weight


@pytest.fixture(params=["links", "no links", "not even hard links"])
def links(request, monkeypatch):

    def refuse(*_, **__):
        raise OSError(1, "A required privilege is not held by the client")

    if request.param != "links":
        monkeypatch.setattr(Path, "symlink_to", refuse)
    if request.param == "not even hard links":
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
def test_best_and_last_are_the_checkpoints_they_were_pointed_at(save, run):
    save(1)
    save(2)
    for name, iteration in ((BEST, 1), (LAST, 1), (LAST, 2)):
        point(run, name, f"iter-00000{iteration}")
    for name, seed in ((BEST, 1), (LAST, 2)):
        expected = tiny_model(GPT2, seed=seed).token_embedding.weight
        assert torch.equal(embedding(run / "checkpoints" / name), expected)
    assert names(run) == ["best", "iter-000001", "iter-000002", "last"]


@pytest.mark.usefixtures("links")
def test_best_and_last_survive_pruning(save, run):
    for iteration in (1, 2, 3, 4):
        save(iteration)
    point(run, BEST, "iter-000001")
    point(run, LAST, "iter-000004")
    prune(run, 0)
    assert "iter-000002" not in names(run)
    assert "iter-000003" in names(run)  # to fall back on
    for name, seed in ((BEST, 1), (LAST, 4)):
        expected = tiny_model(GPT2, seed=seed).token_embedding.weight
        assert torch.equal(embedding(run / "checkpoints" / name), expected)


def test_a_link_replaces_a_folder_that_was_made_without_links(save, run, monkeypatch):
    save(1)
    save(2)
    with monkeypatch.context() as without_links:
        without_links.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError()))
        point(run, LAST, "iter-000001")
    point(run, LAST, "iter-000002")
    assert torch.equal(embedding(run / "checkpoints" / LAST), tiny_model(GPT2, seed=2).token_embedding.weight)
    assert names(run) == ["iter-000001", "iter-000002", "last"]


def test_a_run_can_be_moved(save, run, tmp_path):
    save(1)
    point(run, BEST, "iter-000001")
    run.rename(tmp_path / "moved")
    assert load_model(tmp_path / "moved").about["dataset"] == "abc"


def test_pruning_keeps_the_newest_by_number(run):
    for iteration in (5, 250, 999_999, 1_000_000):
        (run / "checkpoints" / f"iter-{iteration:06d}").mkdir(parents=True)
    prune(run, 3)
    assert names(run) == ["iter-000250", "iter-1000000", "iter-999999"]
    prune(run, 1)
    assert names(run) == ["iter-1000000", "iter-999999"]  # the one before last stays in any case


def test_pruning_removes_what_a_killed_process_left(save, run):
    save(1)
    for name in (".writing-killed", ".iter-000009.old"):
        (run / "checkpoints" / name).mkdir()
    prune(run, 1)
    assert names(run) == ["iter-000001"]


def test_a_checkpoint_that_cannot_be_removed_costs_a_warning(save, run, monkeypatch, capsys):
    for iteration in (1, 2, 3):
        save(iteration)

    def refuse(path, names):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(naming, "remove_listed", refuse)
    prune(run, 1)
    assert names(run) == ["iter-000001", "iter-000002", "iter-000003"]
    assert "iter-000001 cannot be removed (Permission denied)" in " ".join(capsys.readouterr().err.split())


def test_the_usual_files_are_all_that_a_checkpoint_may_have(save, run):
    save(1)
    seldom = {RAW_WEIGHTS, OWN_TEACHERS, ADAPTER_WEIGHTS, ADAPTER_CONFIG}
    assert {*files_below(run / "checkpoints" / "iter-000001"), *seldom} == {*USUAL, MANIFEST}


def test_a_run_means_its_best_checkpoint_or_else_its_last(save, run):
    save(1)
    save(2)
    point(run, LAST, "iter-000002")
    assert find_models(run)[0] == run / "checkpoints" / LAST
    point(run, BEST, "iter-000001")
    assert find_models(run)[0] == run / "checkpoints" / BEST
    assert find_models(run, prefer=LAST)[0] == run / "checkpoints" / LAST


def test_a_checkpoint_and_a_model_folder_mean_themselves(save, tmp_path):
    folder = save(1)
    assert find_models(folder) == [folder]
    save_model(tmp_path / "model", tiny_model(GPT2), CharTokenizer("abc"), about={})
    assert find_models(tmp_path / "model") == [tmp_path / "model"]


def test_a_path_without_a_model_says_what_was_expected(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name, words in (
        ("run", "run without a checkpoint yet"),
        ("empty", "holds no model: expected a run folder"),
        ("nowhere", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=words):
            find_models(tmp_path / name)


def test_a_run_has_a_checkpoint_once_one_is_whole(save, run):
    unfinished = run / "checkpoints" / ".writing-x"
    unfinished.mkdir(parents=True)
    (unfinished / "manifest.json").touch()  # killed just before the rename
    assert not has_checkpoint(run)
    save(1)
    assert has_checkpoint(run)


FOREIGN = (
    "iter-000006-good",
    "iter-x",
    "iter-1e9",
    "iter-000007.bak",
    "iter-7",
    "iter-0000008",
    "iter-+00009",
    "iter-00000٩",
    "iter-000009 (copy)",
    "iter-",
    "Iter-000009",
    "iter-000009\n",
    "iter-99999999999999999999999",
)


def test_folders_of_other_names_are_no_checkpoints_and_stay(save, run):
    for iteration in (1, 2, 3, 4):
        save(iteration)
    for name in FOREIGN:
        shutil.copytree(run / "checkpoints" / "iter-000001", run / "checkpoints" / name)
    point(run, BEST, "iter-000004")
    point(run, LAST, "iter-000004")
    assert [path.name for path in numbered(run)] == [f"iter-00000{iteration}" for iteration in (1, 2, 3, 4)]
    prune(run, 0)
    assert find_models(run) == [run / "checkpoints" / BEST, run / "checkpoints" / "iter-000003"]
    drop_checkpoints_after(run, run / "checkpoints" / "iter-000003", iteration=3, best_iteration=3)
    assert names(run) == sorted(["best", "iter-000003", "last", *FOREIGN])
    assert load_model(run).about["dataset"] == "abc"


def test_a_run_with_folders_of_other_names_only_has_no_checkpoint(save, run):
    save(1).rename(run / "checkpoints" / "iter-000001-good")
    assert not has_checkpoint(run)
    with pytest.raises(CheckpointError, match="run without a checkpoint yet"):
        find_models(run)
    assert load_model(run / "checkpoints" / "iter-000001-good").about["dataset"] == "abc"


def test_a_checkpoint_that_cannot_be_removed_ends_nothing(save, run, monkeypatch, capsys):
    for iteration in (1, 2, 3):
        save(iteration)
    point(run, BEST, "iter-000003")
    point(run, LAST, "iter-000003")

    def refuse(*_, **__):
        raise PermissionError(13, "in use by another program")

    with monkeypatch.context() as held:
        held.setattr(Path, "unlink", refuse)
        held.setattr(os, "unlink", refuse)
        held.setattr(os, "remove", refuse)
        prune(run, 0)
    said = " ".join(capsys.readouterr().err.split())
    assert "iter-000001 cannot be removed (in use by another program)" in said
    assert load_model(run).about["dataset"] == "abc"
    prune(run, 0)
    assert "iter-000001" not in names(run)


@pytest.mark.parametrize("name", ["a\0b", "a\ud83d", "x" * 5000, "a/" * 3000 + "b", "../../kept", "/kept"])
def test_a_checkpoint_is_removed_whatever_names_its_manifest_lists(name, save, run, tmp_path):
    (tmp_path / "kept").write_text("mine")
    folder = save(1)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(
        json.dumps(manifest | {"files": manifest["files"] | {name: {"bytes": 1, "sha256": ""}}})
    )
    save(2)
    drop_checkpoints_after(run, run / "checkpoints" / "iter-000002", iteration=2, best_iteration=2)
    for iteration in (3, 4):
        save(iteration)
        point(run, BEST, f"iter-00000{iteration}")
        point(run, LAST, f"iter-00000{iteration}")
    prune(run, 0)
    assert load_model(run).about["dataset"] == "abc"
    assert (tmp_path / "kept").read_text() == "mine"
