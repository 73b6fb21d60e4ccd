"""A file of tensors is written one by one, with the bytes that safetensors itself writes."""

import weakref

import pytest
import torch
from safetensors.torch import save_file

from quillgpt.checkpoint.save import weights_of
from quillgpt.checkpoint.stored import DTYPES
from quillgpt.checkpoint.tensor_file import TensorFile, all_of
from tiny import GPT2, tiny_model


def same_bytes(tensors, tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    file = TensorFile(all_of(tensors))
    file.write(ours)
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, theirs, metadata={"format": "pt"}
    )
    assert file.content_bytes == sum(tensor.nbytes for tensor in tensors.values())
    return ours.read_bytes() == theirs.read_bytes()


def test_every_number_format_has_safetensors_own_place(tmp_path):
    tensors = {f"{number}": torch.arange(number + 1).to(dtype) for number, dtype in enumerate(DTYPES.values())}
    assert same_bytes(tensors, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["b", "a", "a.b", "B", "a/step", "a10", "a2"],
        ["é", "z", "\U0001f600", "\uffff", 'quo"te', "back\\slash", "tab\t"],
    ],
)
def test_names_have_safetensors_own_order_and_spelling(names, tmp_path):
    assert same_bytes({name: torch.full((2,), float(number)) for number, name in enumerate(names)}, tmp_path)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "one": torch.ones(1)},
        {"transposed": torch.arange(6.0).view(2, 3).T, "piece": torch.arange(12.0).view(4, 3)[1:3]},
        {"parameter": torch.nn.Parameter(torch.ones(3, 2)), "short": torch.ones(3, dtype=torch.int8)},
    ],
    ids=["nothing", "scalars", "views", "parameters"],
)
def test_every_shape_is_written_as_safetensors_writes_it(tensors, tmp_path):
    assert same_bytes(tensors, tmp_path)


def test_a_tensor_is_read_when_it_is_its_turn_and_only_once(tmp_path):
    read, tensors = [], {name: torch.ones(1000) for name in "abc"}

    def note(tensor):
        read.append(tensor)
        return tensor + 1

    file = TensorFile(all_of(tensors), note)
    assert not read
    file.write(tmp_path / "file")
    assert [id(tensor) for tensor in read] == [id(tensor) for tensor in tensors.values()]


def test_no_more_than_two_tensors_are_in_memory_at_a_time(tmp_path):
    made, most = [], 0

    def gather(tensor):
        nonlocal most
        values = torch.ones(tensor.shape)
        made.append(weakref.ref(values))
        most = max(most, sum(reference() is not None for reference in made))
        return values

    model = tiny_model(GPT2)
    for file in (TensorFile(weights_of(model), gather), TensorFile(all_of(dict(model.named_parameters())), gather)):
        file.write(tmp_path / "file")
    assert len(made) > 20
    assert most == 2
