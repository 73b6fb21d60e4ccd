"""Token files are verified, to the last bit, before they are used."""

import json
import os
import pickle

import numpy as np
import pytest

from quillgpt.data import verification
from quillgpt.data.batches import gather
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import DataError
from quillgpt.files import quill_home

TEXT = "The cat sat on the mat.\nThe dog sat on the log.\n" * 20


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))


@pytest.fixture
def dataset(tmp_path):
    (tmp_path / "rhyme.txt").write_text(TEXT)
    made = prepare([str(tmp_path / "rhyme.txt")], data_dir=tmp_path / "data").dataset
    (tmp_path / "rhyme.txt").unlink()
    return made


@pytest.fixture
def nanogpt(tmp_path):
    """Write a folder of nanoGPT's with three million tokens, more than are looked at in samples."""
    folder = tmp_path / "data" / "poems"
    folder.mkdir(parents=True)
    (np.arange(3_000_000) % 3).astype(np.uint16).tofile(folder / "train.bin")
    np.zeros(100, np.uint16).tofile(folder / "val.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"itos": {0: "a", 1: "b", 2: "c"}}))
    return folder


@pytest.fixture
def reads(monkeypatch):
    """List the files that are read completely; changed times count at once."""
    read, files = verification._read, []
    monkeypatch.setattr(verification, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(verification, "_read", lambda path, dtype: (files.append(path.name), read(path, dtype))[1])
    return files


def flip(file, place=-2):
    """Flip a bit so that the id stays valid, without changing size and modification time."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("file", ["train.bin", "val.bin"])
def test_a_flipped_bit_is_named(dataset, file):
    flip(dataset.folder / file)
    for use in (open_dataset, lambda name, folder: ensure_dataset(name, data_dir=folder)):
        with pytest.raises(DataError, match=rf"{file} is damaged, or was changed: its SHA-256 is \w+, dataset\.json"):
            use("rhyme", dataset.folder.parent)


def test_other_letters_of_the_same_length_are_named(dataset):
    tokens = np.fromfile(dataset.folder / "train.bin", np.uint16)
    tokens[::-1].tofile(dataset.folder / "train.bin")
    with pytest.raises(DataError, match=r"train\.bin is damaged, or was changed"):
        open_dataset("rhyme", dataset.folder.parent)


def test_a_damaged_file_whose_text_is_there_is_made_again_and_said(tmp_path, dataset, capsys):
    (tmp_path / "rhyme.txt").write_text(TEXT)
    flip(dataset.folder / "train.bin")
    assert ensure_dataset("rhyme", data_dir=dataset.folder.parent).fingerprint == dataset.fingerprint
    assert "train.bin is damaged" in capsys.readouterr().err
    assert open_dataset("rhyme", dataset.folder.parent).fingerprint == dataset.fingerprint


def test_files_are_read_once_and_again_when_they_change(dataset, reads):
    for _ in range(3):
        open_dataset("rhyme", dataset.folder.parent)
    assert reads == ["train.bin", "val.bin"]
    flip(dataset.folder / "val.bin")
    with pytest.raises(DataError, match=r"val\.bin is damaged"):
        open_dataset("rhyme", dataset.folder.parent)
    flip(dataset.folder / "val.bin")
    open_dataset("rhyme", dataset.folder.parent)
    assert reads == ["train.bin", "val.bin", "val.bin", "val.bin"]
    dataset.folder.replace(dataset.folder.with_name("other"))
    open_dataset("other", dataset.folder.parent)
    assert len(reads) == 6


def test_what_was_just_written_is_not_remembered(dataset, reads, monkeypatch):
    monkeypatch.setattr(verification, "SETTLED_SECONDS", 1000.0)
    for _ in range(2):
        open_dataset("rhyme", dataset.folder.parent)
    assert len(reads) == 4


def test_what_a_disk_changed_without_a_trace_is_found_when_it_is_verified_anew(dataset, reads):
    open_dataset("rhyme", dataset.folder.parent)
    flip(dataset.folder / "train.bin")
    for note in (quill_home() / "verified").iterdir():  # as if the system's record of the file had stayed as it was
        content = json.loads(note.read_text())
        if content["state"]["bytes"] == (dataset.folder / "train.bin").stat().st_size:
            content["state"] = verification.FileState.of((dataset.folder / "train.bin").stat()).model_dump()
            note.write_text(json.dumps(content))
    open_dataset("rhyme", dataset.folder.parent)
    for anew in (True, False):
        with pytest.raises(DataError, match=r"train\.bin is damaged"):
            open_dataset("rhyme", dataset.folder.parent, verify_anew=anew)


@pytest.mark.parametrize("note", ["", "[]", "{", '{"sha256": 3}', "[" * 10000])
def test_a_damaged_result_in_the_cache_is_made_again(dataset, reads, note):
    open_dataset("rhyme", dataset.folder.parent)
    for file in (quill_home() / "verified").iterdir():
        file.write_text(note)
    open_dataset("rhyme", dataset.folder.parent)
    assert len(reads) == 4


def test_a_data_set_opens_without_a_writable_cache(dataset, reads, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "file"))
    assert open_dataset("rhyme", dataset.folder.parent).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("place", [0, 20_000, 1_234_567, 2_999_999])
def test_an_id_beyond_the_tokenizer_is_named_wherever_it_is(nanogpt, place):
    tokens = np.fromfile(nanogpt / "train.bin", np.uint16)
    tokens[place] = 3
    tokens.tofile(nanogpt / "train.bin")
    with pytest.raises(DataError, match=rf"train\.bin has the token id 3 \(token {place:,} of the file\).*has only 3"):
        open_dataset("poems", nanogpt.parent)


def test_nanogpts_files_are_read_once_too_and_known_by_what_they_hold(nanogpt, reads):
    first = open_dataset("poems", nanogpt.parent).fingerprint
    assert open_dataset("poems", nanogpt.parent).fingerprint == first
    assert reads == ["train.bin", "val.bin"]
    flip(nanogpt / "val.bin")
    assert open_dataset("poems", nanogpt.parent).fingerprint != first


def test_a_file_that_became_shorter_while_it_is_mapped_is_named(dataset):
    with (dataset.folder / "train.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DataError, match=r"train\.bin has become shorter while it was read: 100 of 1,728 bytes"):
        gather(dataset.train, np.array([800]), 16)
