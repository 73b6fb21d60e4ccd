"""Training on a file that is not in memory is measured in turn with training on a small one."""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import numpy as np
import pytest

from in_process import Here
from quillgpt.bench import corpus
from quillgpt.cli import main
from quillgpt.errors import DataError

SIZES = ["--n_layer=1", "--n_head=1", "--n_embd=16", "--block_size=16", "--batch_size=4", "--attn_path=explicit"]


def test_the_command_compares_a_large_file_with_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "Worker", Here)
    words = ["bench", "corpus", "shakespeare_char_cpu", "--gigabytes=0.02", "--rounds=2", "--iterations=3", "--json"]
    assert main([*words, *SIZES, "--device=cpu", "--threads=1", "--compile=False"]) == 0
    small, large = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert [small["candidate"], large["candidate"]] == ["small", "large"]
    assert [small["file_bytes"], large["file_bytes"]] == [2_000_000, 20_000_000]
    for row in (small, large):
        assert len(row["tokens_per_second_rounds"]) == 2
        assert 0 < row["ms_reading"] < row["ms_per_iteration"]
    assert small["speed_of_small"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not corpus.can_empty_cache(), reason="this system cannot drop a file from its cache")
@pytest.mark.parametrize("vocabulary", [65, 70_000])
def test_ids_are_below_the_vocabulary_and_survive_an_emptied_cache(tmp_path: Path, vocabulary: int) -> None:
    path = tmp_path / "train.bin"
    corpus.write_random_tokens(path, 200_000, vocabulary)
    assert path.stat().st_size == 200_000
    tokens = np.memmap(path, dtype=corpus.id_type(vocabulary), mode="r")
    before = np.array(tokens)
    assert vocabulary * 0.9 < before.max() < vocabulary
    corpus.empty_cache(path, tokens)
    assert isinstance(tokens.base, mmap.mmap)
    assert np.array_equal(tokens, before)


def test_files_that_have_no_room_are_not_begun(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match="give fewer --gigabytes, or another --folder"),
        corpus.token_files(tmp_path, {"large": 10**17}, 65),
    ):
        pass
    with (
        pytest.raises(DataError, match=r"gone.* cannot be made there .* give another --folder"),
        corpus.token_files(tmp_path / "gone", {"large": 10}, 65),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gigabytes", ["0", "-1", "nan", "1e9"])
def test_an_impossible_size_is_refused(gigabytes: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "corpus", f"--gigabytes={gigabytes}"]) == 2
    assert "expected a number from 0.001" in " ".join(capfd.readouterr().err.split())
