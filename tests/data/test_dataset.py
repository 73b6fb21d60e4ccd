import pickle

import numpy as np
import pytest

from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import ensure_dataset, prepare
from quillgpt.errors import ConfigError, DataError, UserError
from quillgpt.text.sources.downloads import GPT2_MERGES, GPT2_VOCABULARY

TEXT = "The cat sat on the mat.\nThe dog sat on the log.\n" * 20


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def nanogpt(data_dir):
    """A folder as nanoGPT's shakespeare_char/prepare.py writes it."""
    folder = data_dir / "poems"
    folder.mkdir(parents=True)
    characters = sorted(set(TEXT))
    ids = np.array([characters.index(character) for character in TEXT], dtype=np.uint16)
    ids[:900].tofile(folder / "train.bin")
    ids[900:].tofile(folder / "val.bin")
    table = dict(enumerate(characters))
    meta = {"vocab_size": len(table), "itos": table, "stoi": {c: i for i, c in table.items()}}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder


def prepared(data_dir, tmp_path):
    path = tmp_path / "rhyme.txt"
    path.write_text(TEXT)
    return prepare([str(path)], data_dir=data_dir).dataset


def test_a_prepared_data_set_is_memory_mapped_and_complete(data_dir, tmp_path):
    dataset = prepared(data_dir, tmp_path)
    assert isinstance(dataset.train, np.memmap)
    assert dataset.train.dtype == np.uint16
    assert dataset.name == "rhyme"
    assert not dataset.ends_documents
    assert dataset.tokenizer.decode(np.concatenate([dataset.train, dataset.val])) == TEXT
    again = open_dataset("rhyme", data_dir)
    assert again.fingerprint == dataset.fingerprint


def test_the_fingerprint_changes_with_the_data(data_dir, tmp_path):
    before = prepared(data_dir, tmp_path).fingerprint
    (tmp_path / "rhyme.txt").write_text(TEXT.replace("cat", "act"))
    assert ensure_dataset("rhyme", data_dir=data_dir).fingerprint != before


def test_a_nanogpt_folder_with_meta_is_used_as_it_is(nanogpt, data_dir):
    files = {path.name: path.read_bytes() for path in nanogpt.iterdir()}
    dataset = ensure_dataset("poems", data_dir=data_dir)
    assert dataset.tokenizer.decode(dataset.train) == TEXT[:900]
    assert dataset.tokenizer.decode(dataset.val) == TEXT[900:]
    assert dataset.manifest is None
    assert {path.name: path.read_bytes() for path in nanogpt.iterdir()} == files
    assert open_dataset("poems", data_dir).fingerprint == dataset.fingerprint


@pytest.mark.download
def test_a_nanogpt_folder_without_meta_has_gpt2s_tokens(nanogpt, data_dir, published):
    published(GPT2_MERGES)
    published(GPT2_VOCABULARY)
    (nanogpt / "meta.pkl").unlink()
    np.array([15496, 995, 50256, 15496], dtype=np.uint16).tofile(nanogpt / "train.bin")
    dataset = open_dataset("poems", data_dir)
    assert dataset.tokenizer.decode(dataset.train[:2]) == "Hello world"
    assert dataset.ends_documents
    np.array([15496, 995], dtype=np.uint16).tofile(nanogpt / "train.bin")
    assert not open_dataset("poems", data_dir).ends_documents


def test_a_meta_that_is_still_right_is_kept_for_nanogpts_checkpoints(nanogpt, data_dir):
    (nanogpt / "input.txt").write_text(TEXT[::-1])
    prepare(["poems"], data_dir=data_dir, overwrite=True)
    assert (nanogpt / "meta.pkl").exists()


def test_a_changed_input_beside_nanogpts_tokens_is_mentioned(nanogpt, data_dir, capsys):
    (nanogpt / "input.txt").write_text("New words.\n" * 30)
    ensure_dataset("poems", data_dir=data_dir)
    assert "quill prepare poems --overwrite" in " ".join(capsys.readouterr().err.split())
    dataset = prepare(["poems"], data_dir=data_dir, overwrite=True).dataset
    assert dataset.tokenizer.decode(dataset.train[:10]) == "New words."
    assert not (nanogpt / "meta.pkl").exists()


def test_token_ids_beyond_the_tokenizer_are_named(nanogpt, data_dir):
    ids = np.fromfile(nanogpt / "val.bin", dtype=np.uint16)
    ids[-1] = 999
    ids.tofile(nanogpt / "val.bin")
    with pytest.raises(DataError, match=r"val\.bin has the token id 999.*quill prepare"):
        open_dataset("poems", data_dir)


@pytest.mark.parametrize("content", [b"", b"\0\0\0"])
def test_a_damaged_token_file_is_named(nanogpt, data_dir, content):
    (nanogpt / "train.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.bin is damaged"):
        open_dataset("poems", data_dir)


def test_missing_files_and_data_sets_name_the_command(data_dir, tmp_path):
    dataset = prepared(data_dir, tmp_path)
    for name, words in (
        ("ryhme", "did you mean rhyme"),
        ("shakespear", "did you mean shakespeare"),
        ("xyz", "quill prepare"),
    ):
        for call in (lambda name: open_dataset(name, data_dir), lambda name: ensure_dataset(name, data_dir=data_dir)):
            with pytest.raises(DataError, match=words):
                call(name)
    (dataset.folder / "val.bin").unlink()
    with pytest.raises(DataError, match=r"val\.bin is missing; prepare it with: quill prepare"):
        open_dataset("rhyme", data_dir)


def test_an_unfinished_preparation_is_not_taken_for_nanogpts(data_dir, tmp_path):
    dataset = prepared(data_dir, tmp_path)
    (dataset.folder / "dataset.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        open_dataset("rhyme", data_dir)
    with pytest.raises(DataError, match="rhyme"):
        ensure_dataset("rhyme", data_dir=data_dir)


@pytest.mark.parametrize("content", ["{", "{}", '{"format_version": 99}'])
def test_a_damaged_manifest_is_named(data_dir, tmp_path, content):
    dataset = prepared(data_dir, tmp_path)
    (dataset.folder / "dataset.json").write_text(content)
    with pytest.raises(
        DataError, match=r"dataset\.json is damaged: .*prepare it again: quill prepare PATH --dataset=rhyme"
    ):
        open_dataset("rhyme", data_dir)


def test_a_cut_off_token_file_and_a_strange_tokenizer_are_named(data_dir, tmp_path):
    dataset = prepared(data_dir, tmp_path)
    (dataset.folder / "train.bin").write_bytes(b"\0\0" * 5)
    with pytest.raises(DataError, match=r"has 5 tokens, but dataset\.json says 864"):
        open_dataset("rhyme", data_dir)
    path = tmp_path / "other.txt"
    path.write_text(TEXT + "z" * 100)
    other = prepare([str(path)], data_dir=data_dir, tokenizer="char").dataset
    (other.folder / "tokenizer.json").write_bytes((dataset.folder / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match="is not the tokenizer char that other was prepared with"):
        open_dataset("other", data_dir)


@pytest.mark.parametrize("name", ["../other/rhyme", "./rhyme", "..\\other\\rhyme", "{}/rhyme", "rhyme/../rhyme"])
def test_a_path_means_no_data_set_and_touches_none(data_dir, tmp_path, name):
    name = name.format(tmp_path / "other")
    here = prepared(data_dir, tmp_path)
    (tmp_path / "rhyme.txt").write_text(TEXT[::-1])
    prepare([str(tmp_path / "rhyme.txt")], data_dir=tmp_path / "other")
    for use in (
        lambda: open_dataset(name, data_dir),
        lambda: ensure_dataset(name, data_dir=data_dir),
        lambda: prepare([str(tmp_path / "rhyme.txt")], data_dir=data_dir, dataset=name, replace=True),
    ):
        with pytest.raises(ConfigError, match="is a path, not the name of a folder in data_dir"):
            use()
    assert open_dataset("rhyme/", data_dir).fingerprint == here.fingerprint
    assert sorted(path.name for path in data_dir.iterdir() if not path.name.startswith(".")) == ["rhyme"]


def test_a_text_that_lies_in_the_folder_unprepared_is_named(tmp_path):
    folder = tmp_path / "hitchikers"
    folder.mkdir()
    (folder / "notes.md").write_text("short")
    (folder / "trans criptions.txt").write_text("a longer text")
    with pytest.raises(DataError, match=r"its text trans criptions\.txt is not prepared: prepare it with") as caught:
        open_dataset("hitchikers", tmp_path)
    assert f"quill prepare '{folder / 'trans criptions.txt'}' --dataset hitchikers" in str(caught.value)
    with pytest.raises(DataError, match="trans criptions"):
        prepare(["hitchikers"], data_dir=tmp_path)


def test_a_data_dir_that_cannot_be_made_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").write_text("words of a text " * 100)
    with pytest.raises(UserError, match="--data_dir"):
        prepare([str(tmp_path / "file")], data_dir=tmp_path / "file" / "data")
