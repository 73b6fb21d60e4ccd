"""A preparation that was interrupted or killed goes on with the shards that are done, and gives the same files."""

import errno
import json
import os
import random
import signal
import sys
import time

import pytest

from quillgpt.data import shards
from quillgpt.data.prepare import prepare
from quillgpt.data.shards import SHARDS_FILE, ShardWriter
from quillgpt.data.staging import STAGING
from quillgpt.errors import DataError
from quillgpt.stopping import words_on

unix = pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
FILES = ["dataset.json", "tokenizer.json", "tokenizer_config.json", "train.bin", "val.bin"]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch, tmp_path):
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 4000)
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))


@pytest.fixture
def tales(tmp_path):
    """Write 40 documents without repetition, 46 kB in all."""
    draw = random.Random(5)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3000)]
    (tmp_path / "tales").mkdir()
    for number in range(40):
        text = " ".join(draw.choices(words, k=180)) + f".\nThe end of tale {number}.\n"
        (tmp_path / "tales" / f"{number:02}.txt").write_text(text)
    return tmp_path / "tales"


def make(tales, data_dir, **options):
    return prepare([str(tales)], data_dir=data_dir, **({"tokenizer": "byte", "chunk_characters": 500} | options))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def interrupt(monkeypatch, tales, data_dir, *, after, error=KeyboardInterrupt, **options):
    """Prepare, and raise an error when as many shards are done; return the error."""
    close, left = ShardWriter._close, [after]

    def ended(*arguments):
        if not left[0]:
            raise error
        left[0] -= 1
        close(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "_close", ended)
        with pytest.raises((KeyboardInterrupt, DataError)) as caught:
            make(tales, data_dir, **options)
    return caught.value


@pytest.mark.parametrize("after", [1, 5, 11])
@pytest.mark.parametrize("tokenizer", ["bpe:300", "char", "byte"])
def test_an_interrupted_preparation_goes_on_and_gives_the_same_files(
    tales, tmp_path, monkeypatch, capsys, after, tokenizer
):
    whole = make(tales, tmp_path / "whole", tokenizer=tokenizer).dataset.folder
    data_dir = tmp_path / "data"
    error = interrupt(monkeypatch, tales, data_dir, after=after, tokenizer=tokenizer)
    assert words_on(error).endswith(f"tales was prepared: {after} of 13 shards are done; the same command goes on")
    assert sorted(contents(data_dir / "tales")) == []
    with monkeypatch.context() as patch:
        patch.setattr("quillgpt.text.tokenizers.bpe.BytePairTokenizer.train", lambda *_: pytest.fail("learned again"))
        resumed = make(tales, data_dir, tokenizer=tokenizer)
    assert f"Going on with {after} of 13 shards" in capsys.readouterr().err
    assert contents(resumed.dataset.folder) == contents(whole)
    assert sorted(path.name for path in resumed.dataset.folder.iterdir()) == FILES


def test_a_text_that_is_cut_at_its_end_goes_on_in_either_part(tales, tmp_path, monkeypatch, capsys):
    book = tmp_path / "book.txt"
    book.write_text("".join(path.read_text() for path in sorted(tales.iterdir())))
    whole = make(book, tmp_path / "whole", val_fraction=0.3).dataset.folder
    for after in (2, 10):
        interrupt(monkeypatch, book, tmp_path / f"data{after}", after=after, val_fraction=0.3)
        resumed = make(book, tmp_path / f"data{after}", val_fraction=0.3).dataset.folder
        assert f"Going on with {after} of" in capsys.readouterr().err
        assert contents(resumed) == contents(whole)


@unix
def test_killed_at_any_moment_the_same_command_gives_the_same_files(tales, tmp_path, capsys):
    whole = make(tales, tmp_path / "whole").dataset.folder
    places = []
    for number, moment in enumerate([0.2, 1.0, 1.5, 2.0]):
        data_dir = tmp_path / f"data{number}"
        while not (data_dir / "tales" / "dataset.json").exists():  # killed again and again, each time a little later
            began, child = time.monotonic(), os.fork()
            if child == 0:
                try:
                    make(tales, data_dir)
                finally:
                    os._exit(0)
            while not (data_dir / "tales").exists():
                time.sleep(0.001)
            time.sleep(moment * (time.monotonic() - began))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            moment *= 1.2
            record = data_dir / "tales" / STAGING / SHARDS_FILE
            places.append(len(json.loads(record.read_text())["shards"]) if record.exists() else 0)
        assert contents(data_dir / "tales") == contents(whole)
        make(tales, data_dir)
    assert any(places)


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": "bpe:310"},
        {"tokenizer": "char"},
        {"val_fraction": 0.25},
        {"end_of_text_marks": True},
        {"deduplicate": True},
        {"drop_repeated_lines": 30},
        {"encoding": "latin-1"},
        {"chunk_characters": 300},
        {"text": "Another tale.\n"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_with_another_text_or_option_it_starts_over(tales, tmp_path, monkeypatch, capsys, change):
    interrupt(monkeypatch, tales, tmp_path / "data", after=4)
    change = dict(change)
    if "text" in change:
        (tales / "07.txt").write_text(change.pop("text"))
    if "encoding" in change:
        (tales / "07.txt").write_bytes("für\n".encode("latin-1") * 30)
    done = make(tales, tmp_path / "data", **change)
    assert "Going on" not in capsys.readouterr().err
    assert contents(done.dataset.folder) == contents(make(tales, tmp_path / "whole", **change).dataset.folder)


@pytest.mark.parametrize(
    ("place", "kept"), [(0, 0), (-1, 3), (None, 3), ("missing", 0)], ids=["first", "last", "cut", "missing"]
)
def test_a_damaged_shard_is_named_and_encoded_again(tales, tmp_path, monkeypatch, capsys, place, kept):
    interrupt(monkeypatch, tales, tmp_path / "data", after=4)
    file = tmp_path / "data" / "tales" / STAGING / "train.bin"
    record = json.loads(file.with_name(SHARDS_FILE).read_text())
    content = bytearray(file.read_bytes()[: sum(shard["stored_bytes"] for shard in record["shards"])])
    if place == "missing":
        file.unlink()
    else:
        if place is None:
            del content[-2:]
        else:
            content[place] ^= 1
        file.write_bytes(content)
    done = make(tales, tmp_path / "data")
    said = capsys.readouterr().err
    assert f"shard {kept + 1} in {file} " in said
    assert (f"Going on with {kept} of 13 shards" in said) == (kept > 0)
    assert contents(done.dataset.folder) == contents(make(tales, tmp_path / "whole").dataset.folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"shards": []}', "\0" * 100])
def test_with_a_damaged_record_it_starts_over(tales, tmp_path, monkeypatch, capsys, content):
    interrupt(monkeypatch, tales, tmp_path / "data", after=4)
    (tmp_path / "data" / "tales" / STAGING / SHARDS_FILE).write_text(content)
    done = make(tales, tmp_path / "data")
    assert "Going on" not in capsys.readouterr().err
    assert contents(done.dataset.folder) == contents(make(tales, tmp_path / "whole").dataset.folder)


def test_a_damaged_tokenizer_is_learned_again(tales, tmp_path, monkeypatch):
    interrupt(monkeypatch, tales, tmp_path / "data", after=4, tokenizer="bpe:300")
    (tmp_path / "data" / "tales" / STAGING / "tokenizer.json").write_text("{}")
    done, whole = (make(tales, tmp_path / name, tokenizer="bpe:300").dataset.folder for name in ("data", "whole"))
    assert contents(done) == contents(whole)


def test_the_earlier_data_set_stays_until_the_new_one_is_whole(tales, tmp_path, monkeypatch):
    before = contents(make(tales, tmp_path / "data").dataset.folder)
    (tales / "07.txt").write_text("Another tale.\n")
    interrupt(monkeypatch, tales, tmp_path / "data", after=4)
    assert contents(tmp_path / "data" / "tales") == before
    assert contents(make(tales, tmp_path / "data").dataset.folder) != before


def test_a_full_disk_keeps_the_shards_that_are_done(tales, tmp_path, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    error = interrupt(monkeypatch, tales, tmp_path / "data", after=3, error=full)
    assert isinstance(error, DataError)
    assert str(error).endswith(
        "(No space left on device): 3 of 13 shards are done; make room, and the same command goes on"
    )
    make(tales, tmp_path / "data")
    assert "Going on with 3 of 13 shards" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notes.md", "train.bin.bak", "folder/notes.md"])
def test_what_quill_did_not_write_is_named_and_stays(tales, tmp_path, monkeypatch, name):
    interrupt(monkeypatch, tales, tmp_path / "data", after=4)
    mine = tmp_path / "data" / "tales" / STAGING / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(DataError, match=rf"{STAGING} holds .*{name}, which Quill did not write; move it away"):
        make(tales, tmp_path / "data", tokenizer="char")
    assert mine.read_text() == "mine"
    mine.unlink()
    if mine.parent.name != STAGING:
        mine.parent.rmdir()
    make(tales, tmp_path / "data", tokenizer="char")


@unix
def test_a_link_in_the_place_of_the_folder_is_not_followed(tales, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train.bin").write_text("mine")
    (tmp_path / "data" / "tales").mkdir(parents=True)
    (tmp_path / "data" / "tales" / STAGING).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is no folder, and Quill needs one"):
        make(tales, tmp_path / "data")
    assert (tmp_path / "elsewhere" / "train.bin").read_text() == "mine"


def test_a_text_of_one_shard_leaves_nothing_behind(tales, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_CHARACTERS", 1 << 20)
    error = interrupt(monkeypatch, tales, tmp_path / "data", after=1)
    assert words_on(error).endswith("nothing of it is kept; the same command starts again")
    assert not (tmp_path / "data" / "tales").exists()
