"""`quill bench attention` measures speed, memory and errors of all paths."""

import pytest

from quillgpt.attention import KernelSpec
from quillgpt.bench.attention import AttentionWork, bench_attention, peak_megabytes
from quillgpt.process import peak_resident_bytes

pytestmark = pytest.mark.usefixtures("quick_workers")

LARGEST_GROWTH = 2.6
"""Of memory, for a text that is twice as long; the naive form's is 4."""


def test_every_path_is_measured_beside_the_naive_form():
    work = AttentionWork(KernelSpec("GK"), (1, 2, 64, 16), "float32", 1, 0.5)
    results = bench_attention(work, rounds=1)
    assert [result.path for result in results] == ["naive", "recompute", "augmented"]
    assert results[0].times_as_fast == 1
    assert all(result.relative_error < 1e-5 for result in results)


@pytest.mark.skipif(peak_resident_bytes() is None, reason="this system does not tell a process its peak memory")
@pytest.mark.parametrize(("name", "path"), [("GK", "augmented"), ("PA_gelu", "recompute")])
def test_memory_grows_with_the_length_not_with_its_square(name, path):
    lengths = (1024, 4096)  # twice as long twice, since a single step can be off by what freed memory stays
    peaks = [
        peak_megabytes(AttentionWork(KernelSpec(name), (1, 4, length, 64), "float32", 1, 0.554), path)
        for length in lengths
    ]
    if None in peaks:
        pytest.skip("this system does not let a process forget its peak memory")
    before, after = peaks
    assert after < LARGEST_GROWTH**2 * before
