import torch

from quillgpt.model.rope import rotate, rotation_table
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
