"""Whatever the files of a data set, a run's record and the cache hold: what they say, or one clear line."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from fuzzing import as_json, check_message, damage, fuzz, mutate, only_user_errors, randoms
from quillgpt import device
from quillgpt.cli.plot import read_run
from quillgpt.data.dataset import open_dataset
from quillgpt.data.prepare import prepare
from quillgpt.errors import UserError
from quillgpt.plots.chart import loss_chart
from quillgpt.plots.figure import draw_figure
from quillgpt.text.sources.hub import CorpusRecord, ShardRecord, recorded_hashes
from quillgpt.text.sources.hub_corpus import HubCorpus

TEXT = "To be, or not to be, that is the question:\n" * 60


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "text.txt").write_text(TEXT)
    prepare([str(folder / "text.txt")], data_dir=folder / "data", tokenizer="byte")
    return folder / "data" / "text"


def changed(file: Path, random: Random) -> bytes:
    """Return a JSON file's content, changed by sense or by bytes."""
    content = file.read_bytes()
    return damage(content, random) if random.random() < 0.3 else as_json(mutate(json.loads(content), random))


@fuzz(300, random=randoms)
def test_a_damaged_data_set(prepared: Path, random: Random) -> None:
    names = ("dataset.json", "dataset.json", "tokenizer.json", "train.bin", "val.bin")
    file = prepared / random.choice(names)
    before = file.read_bytes()
    file.write_bytes(changed(file, random) if file.suffix == ".json" else damage(before, random))
    try:
        with only_user_errors():
            dataset = open_dataset("text", prepared.parent)
            for tokens in (dataset.train, dataset.val):
                dataset.tokenizer.decode(np.array(tokens[-300:]))
    finally:
        file.write_bytes(before)


@fuzz(150, random=randoms)
def test_a_damaged_record_lets_no_other_text_in(prepared: Path, tmp_path: Path, random: Random) -> None:
    other = tmp_path / "text.txt"
    other.write_text(TEXT[::-1])
    tokens, record = prepared / "train.bin", prepared / "dataset.json"
    before, recorded = tokens.read_bytes(), record.read_bytes()
    record.write_bytes(changed(record, random))
    try:
        with pytest.raises(UserError) as refused:
            prepare([str(other)], data_dir=prepared.parent, tokenizer="byte")
        check_message(str(refused.value))
        assert tokens.read_bytes() == before
    finally:
        record.write_bytes(recorded)


CORPUS = HubCorpus("nobody/nothing")
RECORD = CorpusRecord(
    address=CORPUS.address,
    revision="abc",
    complete=True,
    splits={
        "train": [
            ShardRecord(number=0, documents=3, bytes=9, sha256="00"),
            ShardRecord(number=1, documents=1, bytes=1, sha256="01"),
        ]
    },
)


@fuzz(200, random=randoms)
def test_a_damaged_record_of_a_corpus(random: Random) -> None:
    file = CORPUS.folder / "corpus.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(RECORD.model_dump_json())
    file.write_bytes(changed(file, random))
    with only_user_errors():
        recorded_hashes(CORPUS)


@fuzz(100, random=randoms)
def test_damaged_measurements_are_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random: Random) -> None:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path))
    monkeypatch.setattr(device, "matmul_rate", lambda *_, **__: 3.0)
    cpu = torch.device("cpu")
    (tmp_path / "measurements.json").unlink(missing_ok=True)
    assert device.choose_dtype("auto", cpu) == torch.float32
    assert device.peak(cpu, torch.float32).flops_per_second == 3
    (tmp_path / "measurements.json").write_bytes(changed(tmp_path / "measurements.json", random))
    assert device.choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert device.peak(cpu, torch.float32).flops_per_second > 0


def metrics() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for i in range(6):
        where = {"iter": 10 * i, "tokens": 1000 * i, "seconds": 5.0 * i}
        rows.append({"kind": "train", **where, "loss": 4 - i / 9, "lr": 1e-3, "tokens_per_second": 9e3, "mfu": 0.2})
        rows.append({"kind": "eval", **where, "train_loss": 4 - i / 9, "val_loss": 4 - i / 10})
    return rows


def changed_metrics(random: Random) -> bytes:
    rows = mutate({"rows": metrics()}, random, changes=6)
    return b"\n".join(
        map(as_json, rows["rows"] if isinstance(rows, dict) and isinstance(rows.get("rows"), list) else [rows])
    )


@fuzz(250, random=randoms)
def test_a_damaged_record_of_a_run(tmp_path: Path, random: Random) -> None:
    content = changed_metrics(random)
    if random.random() < 0.3:
        content = damage(content, random)
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with only_user_errors():
        rows = read_run(tmp_path)
        for axis in ("iter", "tokens", "seconds"):
            for width in (20, 80):
                assert len(loss_chart(rows, axis=axis, width=width).splitlines()) <= 12


@fuzz(4, random=randoms)
def test_a_damaged_record_of_a_run_is_drawn(tmp_path: Path, random: Random) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.jsonl").write_bytes(changed_metrics(random))
    with only_user_errors():
        draw_figure({"run": read_run(tmp_path)}).savefig(tmp_path / "figure.svg")
