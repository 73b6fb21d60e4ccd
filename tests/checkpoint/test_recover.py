"""A damaged checkpoint of a run is named, and the newest undamaged one is used."""

from __future__ import annotations

import json

import pytest
import torch

from quillgpt.checkpoint import load_model
from quillgpt.checkpoint.names import BEST, LAST, drop_checkpoints_after, point
from quillgpt.errors import CheckpointError
from tiny import GPT2, tiny_model


@pytest.fixture
def three(save, run):
    """Save three checkpoints; the first is best, the third last."""
    folders = [save(iteration) for iteration in (1, 2, 3)]
    point(run, BEST, "iter-000001")
    point(run, LAST, "iter-000003")
    return folders


def flip(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def truncate(folder):
    file = folder / "training" / "state.json"
    file.write_bytes(file.read_bytes()[:-9])


def cut_manifest(folder):
    file = folder / "manifest.json"
    file.write_bytes(file.read_bytes()[:50])


def lose_what_tells_a_checkpoint(folder):
    (folder / "manifest.json").unlink()
    (folder / "training" / "state.json").unlink()
    flip(folder)


def leave_out_of_manifest(folder):
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["files"]["model.safetensors"]
    file.write_text(json.dumps(manifest))
    flip(folder)


DAMAGES = [flip, truncate, cut_manifest, lose_what_tells_a_checkpoint, leave_out_of_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("damaged", "prefer", "used"),
    [([0], BEST, 3), ([2], LAST, 2), ([0, 2], BEST, 2), ([1, 2], LAST, 1), ([1], LAST, 3), ([1], BEST, 1)],
)
def test_the_newest_whole_checkpoint_stands_in(damage, damaged, prefer, used, three, run, capsys):
    for index in damaged:
        damage(three[index])
    loaded = load_model(run, prefer=prefer)
    assert torch.equal(loaded.model.token_embedding.weight, tiny_model(GPT2, seed=used).token_embedding.weight)
    said = capsys.readouterr().err
    meant = 1 if prefer == BEST else 3
    assert ("going back" in said) == (used != meant)
    if used != meant:
        assert f"checkpoints/iter-00000{meant}/" in said
        assert f"going back to {loaded.folder}" in said


def test_a_run_without_a_whole_checkpoint_is_refused(three, run):
    for folder in three:
        flip(folder)
    with pytest.raises(CheckpointError, match=r"iter-000001/model\.safetensors is damaged.*2 other checkpoints"):
        load_model(run)


def test_a_checkpoint_that_is_meant_by_its_own_path_is_not_replaced(three):
    flip(three[2])
    with pytest.raises(CheckpointError, match=r"iter-000003/model\.safetensors is damaged"):
        load_model(three[2])


def test_a_link_that_leads_nowhere_is_passed_over(three, run):
    (run / "checkpoints" / LAST).unlink()
    (run / "checkpoints" / LAST).symlink_to("iter-000009")
    assert load_model(run, prefer=LAST).folder.name == "iter-000003"


def test_going_back_drops_what_came_later(three, run):
    (run / "checkpoints" / ".writing-killed").mkdir()
    point(run, BEST, "iter-000003")
    drop_checkpoints_after(run, three[1], iteration=2, best_iteration=1)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best",
        "iter-000001",
        "iter-000002",
        "last",
    ]
    assert (run / "checkpoints" / BEST).resolve() == three[0].resolve()
    assert (run / "checkpoints" / LAST).resolve() == three[1].resolve()
