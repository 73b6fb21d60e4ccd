"""A model is read from one checkpoint, the one that was checked, even while its run is training."""

import shutil

import pytest
import torch

from quillgpt.checkpoint import load_model, load_run, recover
from quillgpt.checkpoint.names import BEST, LAST, point
from quillgpt.errors import CheckpointError
from tiny import GPT2, tiny_model


def equals(state, seed):
    expected = tiny_model(GPT2, seed=seed).state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[name], tensor) for name, tensor in expected.items()
    )


def go_on(run, old, new):
    """Do what a run does that saves: `best` and `last` mean a new checkpoint, and the old one goes."""
    for name in (BEST, LAST):
        point(run, name, new.name)
    shutil.rmtree(old)


@pytest.fixture
def two(save, run):
    folders = [save(iteration, optimizer={"a/b": torch.full((3,), float(iteration))}) for iteration in (1, 2)]
    for name in (BEST, LAST):
        point(run, name, "iter-000001")
    return folders


@pytest.fixture
def meanwhile(monkeypatch):
    """Let something happen once, as soon as the files of a checkpoint have been checked, or before that."""

    def arrange(happens, *, before=False):
        verify, happened = recover.verify_manifest, []

        def verify_and(folder, **options):
            first = not happened
            happened.append(folder)
            if first and before:
                happens()
            verify(folder, **options)
            if first and not before:
                happens()

        monkeypatch.setattr(recover, "verify_manifest", verify_and)
        return happened

    return arrange


def test_weights_that_are_read_later_are_those_of_the_checkpoint_that_was_opened(two, run):
    loaded = load_model(run)
    go_on(run, *two)
    assert equals(loaded.model.state_dict(), seed=1)


def test_rows_of_the_embedding_are_those_of_the_checkpoint_that_was_opened(two, run):
    loaded = load_model(run)
    model = loaded.build(lambda part: part)
    go_on(run, *two)
    ids = torch.arange(65).view(1, -1)
    assert torch.equal(model.token_embedding(ids)[0], tiny_model(GPT2, seed=1).token_embedding.weight)


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_that_goes_while_it_is_checked_or_opened_is_no_damage(before, two, run, meanwhile, capsys):
    checked = meanwhile(lambda: go_on(run, *two), before=before)
    loaded = load_model(run)
    assert equals(loaded.model.state_dict(), seed=2)
    assert loaded.folder.name == "iter-000002"
    assert [folder.name for folder in checked] == ["iter-000001", "iter-000002"]
    assert capsys.readouterr().err == ""


def test_a_checkpoint_that_replaces_another_is_checked_too(save, two, run, meanwhile, capsys):
    content = bytearray((two[1] / "model.safetensors").read_bytes())
    content[-3] ^= 4
    (two[1] / "model.safetensors").write_bytes(content)
    save(3)
    meanwhile(lambda: go_on(run, *two))
    assert equals(load_model(run).model.state_dict(), seed=3)
    assert "iter-000002/model.safetensors is damaged" in capsys.readouterr().err


def test_a_checkpoint_that_is_written_anew_under_its_name_is_read_anew(save, two, run, meanwhile):
    meanwhile(lambda: save(1, model=tiny_model(GPT2, seed=7)))
    assert equals(load_model(run).model.state_dict(), seed=7)


def test_a_link_that_moves_on_leaves_what_it_meant(two, run, meanwhile):
    meanwhile(lambda: point(run, BEST, "iter-000002"))
    assert equals(load_model(run).model.state_dict(), seed=1)


def test_the_training_state_is_of_the_same_checkpoint_as_the_model(two, run, meanwhile):
    loaded, stored = load_run(run)
    go_on(run, *two)
    assert stored.state.iteration == 1
    assert torch.equal(stored.optimizer["a/b"], torch.full((3,), 1.0))
    assert equals(loaded.model.state_dict(), seed=1)


def test_a_run_that_is_faster_than_its_reader_is_told_so(save, two, run, monkeypatch):
    verify, iterations = recover.verify_manifest, iter(range(2, 1000))

    def verify_and(folder, **options):
        verify(folder, **options)
        iteration = next(iterations)
        save(iteration + 1)
        go_on(run, folder, run / "checkpoints" / f"iter-{iteration + 1:06d}")

    monkeypatch.setattr(recover, "MOST_TRIES", 4)
    monkeypatch.setattr(recover, "verify_manifest", verify_and)
    with pytest.raises(CheckpointError, match="is replaced faster than it can be read; copy a checkpoint"):
        load_model(run)


@pytest.mark.usefixtures("two")
def test_a_checkpoint_that_stays_and_is_damaged_is_read_once(two, run, meanwhile):
    for folder in two:
        (folder / "config.json").unlink()
    checked = meanwhile(lambda: None)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(run)
    assert len(checked) == 2
