import os
import pickle

import numpy as np
import pytest

from quillgpt.errors import DataError
from quillgpt.text.tokenizers.nanogpt_meta import read_nanogpt_meta


def write(tmp_path, value, protocol=None):
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def meta_of(characters):
    table = dict(enumerate(characters))
    return {"vocab_size": len(table), "itos": table, "stoi": {c: i for i, c in table.items()}}


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_the_ids_are_nanogpts(tmp_path, protocol):
    tokenizer = read_nanogpt_meta(write(tmp_path, meta_of("\n é漢😀zba"), protocol))
    assert tokenizer.encode("abz😀\n").tolist() == [7, 6, 5, 4, 0]
    assert tokenizer.decode([3, 2, 1, 0]) == "漢é \n"


class RunsCode:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_file_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path):
    path = write(tmp_path, meta_of("ab") | {"extra": RunsCode(tmp_path / "made")})
    with pytest.raises(DataError, match=r"meta\.pkl.*wants to run .*mkdir"):
        read_nanogpt_meta(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "value",
    [[], {}, {"itos": {}}, {"itos": {0: "a", 2: "b"}}, {"itos": {0: "ab"}}, {"itos": {0: "a", 1: "a"}}, {"itos": 3}],
)
def test_what_is_no_table_of_characters_is_refused(tmp_path, value):
    with pytest.raises(DataError, match=r"meta\.pkl"):
        read_nanogpt_meta(write(tmp_path, value))


def test_numpy_objects_are_refused_and_damage_is_named(tmp_path):
    with pytest.raises(DataError, match="numpy"):
        read_nanogpt_meta(write(tmp_path, {"itos": np.arange(3)}))
    path = write(tmp_path, meta_of("abc"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="damaged"):
        read_nanogpt_meta(path)
