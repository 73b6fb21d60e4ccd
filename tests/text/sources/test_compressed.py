"""Files that unpack to far more than they look like are refused before anything is unpacked for good."""

import bz2
import gzip
import json
import lzma
import zipfile

import pytest

from quillgpt.data.prepare import prepare
from quillgpt.errors import DataError
from quillgpt.text.sources import compressed
from quillgpt.text.sources.compressed import check_compressed

OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ROWS = "".join(json.dumps({"text": f"row {number**3} of the tale"}) + "\n" for number in range(300))


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    monkeypatch.setattr(compressed, "LEAST_SUSPECT_BYTES", 1_000_000)


def pack(path, content):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.jsonl", content)
    else:
        with OPENERS[path.suffix](path, "wb") as file:
            file.write(content)
    return path


@pytest.mark.parametrize("suffix", [*OPENERS, ".zip"])
def test_a_bomb_is_refused_with_both_sizes(tmp_path, suffix):
    bomb = pack(tmp_path / f"rows.jsonl{suffix}", b"x" * 5_000_000)
    with pytest.raises(DataError, match="unpacks to more than 200 times as many"):
        check_compressed(bomb)
    check_compressed(pack(tmp_path / f"text{suffix}", ROWS.encode()))


@pytest.mark.parametrize("suffix", [*OPENERS, ".zip"])
@pytest.mark.parametrize("damage", [b"", b"no such thing", None])
def test_a_damaged_one_is_named(tmp_path, suffix, damage):
    path = pack(tmp_path / f"rows.jsonl{suffix}", ROWS.encode())
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    if damage == b"" and suffix == ".gz":
        check_compressed(path)  # nothing, packed
    else:
        with pytest.raises(DataError, match="is damaged or cannot be read"):
            check_compressed(path)


def test_a_line_that_no_memory_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LONGEST_LINE_BYTES", 100_000)
    monkeypatch.setattr(compressed, "CHUNK_BYTES", 10_000)
    check_compressed(pack(tmp_path / "lines.gz", (b"x" * 90_000 + b"\n") * 5))
    with pytest.raises(DataError, match="a line of more than 100,000 bytes"):
        check_compressed(pack(tmp_path / "line.gz", b"x" * 120_000))


def test_what_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed.shutil, "disk_usage", lambda _: type("", (), {"free": 1000}))
    with pytest.raises(DataError, match="unpacks to more than the 1,000 bytes that are free"):
        check_compressed(pack(tmp_path / "rows.gz", ROWS.encode()))


@pytest.mark.parametrize("whole", [True, False])
def test_packed_rows_are_read_and_a_bomb_among_them_is_refused(tmp_path, monkeypatch, whole):
    pytest.importorskip("datasets")
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    (tmp_path / "tales").mkdir()
    rows = pack(tmp_path / "tales" / "rows.jsonl.gz", ROWS.encode())
    given = f"hf:{tmp_path / 'tales' if whole else rows}"
    dataset = prepare([given], data_dir=tmp_path / "data", tokenizer="byte").dataset
    assert dataset.manifest.train.documents + dataset.manifest.val.documents == 300
    pack(tmp_path / "tales" / "rows.jsonl.gz", json.dumps({"text": "x" * 5_000_000}).encode())
    with pytest.raises(DataError, match="unpacks to more than 200 times as many"):
        prepare([given], data_dir=tmp_path / "data", tokenizer="byte")
