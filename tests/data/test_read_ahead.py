"""Windows of a large token file are read ahead and let go; files longer than memory are handled piece by piece."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quillgpt.data import read_ahead
from quillgpt.data.batches import Source, TrainingBatches, all_offsets, evaluation_batches, spread_offsets

BLOCK = 512


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.memmap:
    """A mapped file of some pages that counts as large."""
    path = tmp_path / "train.bin"
    np.random.default_rng(0).integers(0, 50_000, 70_001, dtype=np.uint16).tofile(path)
    monkeypatch.setattr(read_ahead, "LARGE_BYTES", 0)
    return np.memmap(path, dtype="<u2", mode="r")


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[int]]]:
    """The advice that the system gets, in its order, which it gets all the same."""
    advise, record = read_ahead._advise, []

    def noted(tokens: np.memmap, offsets: np.ndarray, block_size: int, name: str, unit: int) -> None:
        record.append((name.removeprefix("MADV_"), offsets.tolist()))
        advise(tokens, offsets, block_size, name, unit)

    monkeypatch.setattr(read_ahead, "_advise", noted)
    return record


def test_the_next_batch_is_asked_for_before_it_is_needed(
    large: np.memmap, advised: list[tuple[str, list[int]]]
) -> None:
    batches = TrainingBatches([Source(large)], block_size=BLOCK, batch_size=6, seed=0)
    in_memory = TrainingBatches([Source(np.array(large))], block_size=BLOCK, batch_size=6, seed=0)
    offsets = [[window.offset for window in batches.windows(iteration)] for iteration in range(60)]
    for iteration in (0, 1, 2, 50):  # the last one is a jump, as after a rollback
        expected = in_memory.batch(iteration)
        del advised[:]
        inputs, targets = batches.batch(iteration)
        assert torch.equal(inputs, expected[0])
        assert torch.equal(targets, expected[1])
        assert advised == [
            ("WILLNEED", offsets[iteration]),
            ("DONTNEED", offsets[iteration]),
            ("WILLNEED", offsets[iteration + 1]),
        ]


def test_an_evaluation_reads_ahead_too(large: np.memmap, advised: list[tuple[str, list[int]]]) -> None:
    offsets = all_offsets(len(large), BLOCK)
    inputs = torch.cat([part for part, _ in evaluation_batches(large, offsets, block_size=BLOCK, batch_size=50)])
    assert torch.equal(inputs.flatten(), torch.from_numpy(large[: inputs.numel()].astype(np.int64)))
    assert [name for name, _ in advised] == ["WILLNEED", "DONTNEED"] * 3


def test_a_small_file_is_left_to_the_system(large: np.memmap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "LARGE_BYTES", large.nbytes + 1)
    monkeypatch.setattr(read_ahead.np, "stack", None)  # would fail
    read_ahead.expect_windows(large, np.array([0]), BLOCK)
    read_ahead.expect_windows(np.array(large), np.array([0]), BLOCK)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are mapped")
def test_windows_that_were_read_do_not_stay_in_the_memory_of_the_process(large: np.memmap) -> None:
    def resident() -> int:
        smaps = Path("/proc/self/smaps").read_text().split("train.bin\n")[1]
        return next(int(line.split()[1]) for line in smaps.splitlines() if line.startswith("Rss:"))

    batches = TrainingBatches([Source(large)], block_size=BLOCK, batch_size=20, seed=0)
    large.sum()
    assert resident() >= 136
    for iteration in range(14):  # two epochs
        batches.batch(iteration)
    assert resident() == 0


def test_blocks_of_a_split_far_longer_than_memory_are_spread_without_a_list_of_all() -> None:
    offsets = spread_offsets(10**15, 16, 100, seed=1)
    assert len(offsets) == 100
    assert (np.diff(offsets) > 0).all()
    assert (offsets % 16 == 0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")
def test_a_file_that_cannot_be_mapped_is_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "huge"
    folder.mkdir()
    for name in ("train.bin", "val.bin"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)
    program = f"""
import json, resource, pathlib
from quillgpt.data.dataset import open_dataset
from quillgpt.errors import DataError
(pathlib.Path({str(folder)!r}) / "meta.pkl").write_bytes(__import__("pickle").dumps({{"vocab_size": 9}}))
resource.setrlimit(resource.RLIMIT_AS, (1 << 34, 1 << 34))
try:
    open_dataset("huge", pathlib.Path({str(tmp_path)!r}))
except DataError as error:
    print(json.dumps(str(error)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert "train.bin (1.1 TB) cannot be mapped: Cannot allocate memory" in said
    assert "ulimit -v" in said
