from dataclasses import replace

import pytest
import torch

from quillgpt.model import GPT
from quillgpt.model.gpt import RotationTables, rotate, rotation_table
from tiny import QWEN3
from tolerances import FLOAT32, FLOAT64


def test_a_pair_turns_by_its_positions_angle():
    cosines, sines = rotation_table(8, 4, theta=100.0)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 1, 8, 4)
    for position, row in enumerate(rotate(x, cosines, sines)[0, 0]):
        for pair, wavelength in ((0, 1.0), (1, 10.0)):
            turned = torch.polar(torch.tensor(1.0), torch.tensor(position / wavelength)) * torch.complex(
                x[0, 0, 0, pair], x[0, 0, 0, pair + 2]
            )
            torch.testing.assert_close(torch.complex(row[pair], row[pair + 2]), turned, **FLOAT32)


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    cosines, sines = (table.double() for table in rotation_table(32, 8, theta=10_000.0))
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(query_position, key_position):
        at = slice(query_position, query_position + 1), slice(key_position, key_position + 1)
        return (rotate(query, cosines[at[0]], sines[at[0]]) * rotate(key, cosines[at[1]], sines[at[1]])).sum()

    torch.testing.assert_close(product(9, 4), product(25, 20), rtol=1e-5, atol=1e-6)  # the table is float32
    torch.testing.assert_close(product(0, 0), (query * key).sum(), **FLOAT64)
    assert not torch.isclose(product(9, 4), product(9, 5), rtol=1e-3)


def test_the_table_is_made_where_memory_is_even_for_a_model_without():
    with torch.device("meta"):
        assert not any(table.is_meta for table in rotation_table(4, 4, theta=10_000.0))


@pytest.mark.parametrize("length", [1, 2, 7, 33, 129, 1000])
def test_turns_that_are_needed_first_are_those_of_the_whole_context(length):
    cosines, sines = RotationTables(1024, 24, 10_000.0).first(length, torch.device("cpu"))
    for table, whole in zip((cosines, sines), rotation_table(1024, 24, 10_000.0), strict=True):
        assert len(table) == length
        assert torch.equal(table, whole[:length])


def test_a_context_of_a_million_positions_takes_no_memory_before_they_are_used():
    config = replace(QWEN3, block_size=1 << 20, head_dim=1024, n_head=1, n_kv_head=1, n_layer=1)
    model = GPT(config)
    hidden = model(torch.zeros(1, 3, dtype=torch.int64))
    assert hidden.shape == (1, 3, config.n_embd)
    assert len(model.rotations.first(1, torch.device("cpu"))[0]) == 3


def test_turns_that_an_evaluation_needed_serve_training_too():
    model = GPT(QWEN3)
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.int64))
    model(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_an_older_table_stays_what_it_was_when_more_positions_are_needed():
    rotations = RotationTables(64, 8, 10_000.0)
    cosines, _ = rotations.first(4, torch.device("cpu"))
    before = cosines.clone()
    assert len(rotations.first(5, torch.device("cpu"))[0]) == 8
    assert len(rotations.first(64, torch.device("cpu"))[0]) == 64
    assert torch.equal(cosines, before)
    assert rotations.first(64, torch.device("cpu"))[0] is rotations.first(3, torch.device("cpu"))[0]
