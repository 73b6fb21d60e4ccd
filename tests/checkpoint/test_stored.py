"""The header of a safetensors file is checked before any tensor is made."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quillgpt.checkpoint.stored import open_stored
from quillgpt.checkpoint.weights import open_tensors
from quillgpt.errors import CheckpointError

TENSORS = {
    "a": torch.arange(12.0).view(3, 4),
    "b": torch.tensor(2.5, dtype=torch.bfloat16),
    "c": torch.zeros(0, 5),
    "d": torch.tensor([True, False, True]),
    "e": torch.arange(5, dtype=torch.int64),
}


def write(path, header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def tensor(begin, end, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.safetensors"


def test_tensors_come_back_as_they_were_stored(path):
    save_file(TENSORS, path, metadata={"format": "pt"})
    tensors = open_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert torch.equal(tensors[name], expected)
        assert tensors[name].dtype == tensors.empty[name].dtype == expected.dtype
        assert tensors.empty[name].shape == expected.shape
        assert tensors.empty[name].is_meta
    assert torch.equal(tensors.rows("a")(2), TENSORS["a"][2])


def test_changing_what_was_read_changes_neither_the_file_nor_what_is_read_next(path):
    save_file({"a": torch.ones(3)}, path)
    tensors = open_tensors(path)
    tensors["a"].zero_()
    assert torch.equal(tensors["a"], torch.ones(3))
    assert torch.equal(open_tensors(path)["a"], torch.ones(3))


def test_a_tensor_that_begins_between_two_numbers_is_read(path):
    write(path, {"a": tensor(0, 4, [1]), "b": tensor(4, 8, [1])}, struct.pack("<2f", 1.5, 2.5))
    assert len(path.read_bytes()) % 4  # as only foreign programs write
    assert [open_tensors(path)[name].item() for name in "ab"] == [1.5, 2.5]


@pytest.mark.parametrize("replace", [lambda path: path.unlink(), lambda path: save_file({"a": torch.ones(9)}, path)])
def test_what_was_opened_is_read_though_another_file_has_its_name(replace, path, tmp_path):
    save_file(TENSORS, path)
    tensors = open_tensors(path)
    other = tmp_path / "other"
    path.rename(other)
    save_file({"a": torch.zeros(1)}, path)
    replace(path)
    assert torch.equal(tensors["a"], TENSORS["a"])
    assert torch.equal(tensors.rows("a")(1), TENSORS["a"][1])
    other.unlink()
    assert torch.equal(tensors["a"], TENSORS["a"])


def test_a_file_that_was_cut_after_it_was_opened_is_named(path):
    save_file({"a": torch.ones(3000)}, path)
    tensors = open_tensors(path)
    with path.open("r+b") as file:
        file.truncate(200)
    with pytest.raises(CheckpointError, match=r"some\.safetensors has been changed since it was opened"):
        _ = tensors["a"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": tensor(0, 4, [1] * 70)}, "a.shape"),
        ({"a": tensor(0, 0, [0, 2**62])}, "a.shape.1 is 4611686018427387904"),
        ({"a": tensor(0, 0, [0, 2**40, 2**40])}, "shape [0, 1099511627776, 1099511627776] in F32"),
        ({"a": tensor(0, 4, [-1, -1])}, "a.shape.0 is -1"),
        ({"a": tensor(0, 4, [1.0])}, "a.shape.0 is 1.0"),
        ({"a": tensor(0, 4, "1")}, "a.shape is '1'"),
        ({"a": tensor(0, 4, None)}, "a.shape is None"),
        ({"a": tensor(0, 4, [2])}, "'a' has the shape [2] in F32, which does not fit its place, bytes [0, 4]"),
        ({"a": tensor(4, 0, [1])}, "does not fit its place, bytes [4, 0]"),
        ({"a": tensor(4, 8, [1])}, "does not fit its place, bytes [4, 8]"),
        ({"a": tensor(0, 4, [1]), "b": tensor(0, 4, [1])}, "'b' has the shape [1] in F32, which does not fit"),
        ({"a": tensor(0, 4, [1]), "b": tensor(2, 6, [1])}, "'b' has the shape [1] in F32, which does not fit"),
        ({"a": tensor(0, 4, [1])}, "its tensors take 4 bytes, it has 8"),
        ({"a": tensor(0, 12, [3])}, "its tensors take 12 bytes, it has 8"),
        ({"a": tensor(0, 8, [2], "F3")}, "a.dtype is 'F3'"),
        ({"a": tensor(0, 8, [2], None)}, "a.dtype is None"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "a.data_offsets is missing"),
        ({"a": tensor(0, 8, [2]) | {"data_offsets": [0]}}, "a.data_offsets"),
        ({"a": 3}, "a is 3, expected an object"),
        ([], "the content is [], expected an object"),
        (b"", "no JSON"),
        (b"[" * 100_000, "nested more than"),
        (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_by_name(header, said, path):
    write(path, header, bytes(8))
    with pytest.raises(CheckpointError, match=re.escape(said)) as caught:
        open_stored(path)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert len(str(caught.value)) < len(str(path)) + 300


@pytest.mark.parametrize("content", [b"", b"abc", bytes(7), struct.pack("<Q", 2**63) + b"{}", struct.pack("<Q", 9)])
def test_a_file_that_begins_otherwise_is_named(content, path):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"some\.safetensors is damaged: it does not begin as"):
        open_stored(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nothing is missing"):
        open_stored(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_stored(tmp_path)


def open_files():
    return sum(1 for _ in Path("/dev/fd").iterdir())


counted = pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the system does not tell which files are open")


@counted
def test_more_tensors_are_read_than_files_may_be_open(path):
    import resource

    many = {str(number): torch.full((20_000,), float(number)) for number in range(120)}
    save_file(many, path)
    stored = open_tensors(path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 40, before[1]))
    try:
        tensors = dict(stored)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in many.items())


@counted
def test_a_small_tensor_keeps_no_file_open(path):
    save_file({str(number): torch.ones(3) for number in range(50)}, path)
    stored = open_tensors(path)
    before = open_files()
    tensors = dict(stored)
    assert open_files() == before
    assert len(tensors) == 50
