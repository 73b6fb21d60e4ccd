"""Tokens without text: written and read as numbers, by Quill and by the tokenizers library alike."""

import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from quillgpt.data.dataset import open_dataset
from quillgpt.errors import DataError, TokenizerError
from quillgpt.text.tokenizers.ids import MOST_IDS, IdTokenizer
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta
from quillgpt.text.tokenizers.tokenizer import load_tokenizer


def test_ids_are_written_and_read_as_numbers():
    tokenizer = IdTokenizer(500)
    assert tokenizer.encode(" 12 5\n499 ").tolist() == tokenizer.encode_prompt("12 5 499") == [12, 5, 499]
    assert tokenizer.decode([12, 5, 499]) == " 12 5 499"
    assert tokenizer.decode([]) == ""
    assert tokenizer.byte_lengths().sum() == 0
    text = "1 22 333 4"
    for at in range(len(text)):
        cut = tokenizer.last_cut(text[:at])
        parts = tokenizer.encode(text[:cut]).tolist() + tokenizer.encode(text[cut:]).tolist()
        assert parts == [1, 22, 333, 4]


@pytest.mark.parametrize("text", ["a", "1 b", "-1", "1.5", "\u00b2", "500", "9" * 5000, "12,5"])
def test_what_is_no_id_is_named(text):
    with pytest.raises(TokenizerError) as caught:
        IdTokenizer(500).encode(text)
    assert len(str(caught.value)) < 300


def test_it_is_saved_as_a_tokenizer_that_others_read_alike(tmp_path):
    tokenizer = IdTokenizer(300)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, IdTokenizer)
    assert loaded.fingerprint == tokenizer.fingerprint
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("12 5 299").ids == [12, 5, 299]
    assert library.decode([12, 5, 299]) == tokenizer.decode([12, 5, 299])


@pytest.mark.parametrize("size", [0, -1, MOST_IDS + 1, 10**18, 10**5000], ids=["0", "-1", "65537", "large", "huge"])
def test_sizes_that_no_token_file_has_are_refused(size, tmp_path):
    with pytest.raises(TokenizerError, match="vocab_size is"):
        IdTokenizer(size)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size}))
    with pytest.raises((TokenizerError, DataError)):
        read_nanogpt_meta(tmp_path / "meta.pkl")


@pytest.mark.parametrize("size", [True, "65", 65.0, None])
def test_a_size_that_is_no_number_is_refused(size, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": size}))
    with pytest.raises(DataError, match="or a vocab_size"):
        read_nanogpt_meta(tmp_path / "meta.pkl")


def test_a_data_set_of_nanogpts_whose_meta_has_only_a_size_is_one_without_text(tmp_path, capsys):
    folder = tmp_path / "data" / "proteins"
    folder.mkdir(parents=True)
    np.arange(200, dtype=np.uint16).tofile(folder / "train.bin")
    np.arange(100, dtype=np.uint16).tofile(folder / "val.bin")
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 200}))
    dataset = open_dataset("proteins", tmp_path / "data")
    assert dataset.tokenizer.vocab_size == 200
    assert dataset.tokenizer.decode(dataset.train[:3]) == " 0 1 2"
    assert "has only vocab_size" in capsys.readouterr().err
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 150}))
    with pytest.raises(DataError, match="token id 199"):
        open_dataset("proteins", tmp_path / "data")
