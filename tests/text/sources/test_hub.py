"""Rows of data sets become documents; everything but the hub itself is real: `datasets`, Parquet, JSON lines, text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quillgpt.errors import DataError, UserError
from quillgpt.text.sources import hub
from quillgpt.text.sources.documents import Mark, Source
from quillgpt.text.sources.hub import fetch_corpus, recorded_hashes
from quillgpt.text.sources.hub_corpus import HubCorpus, parse_address


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    return tmp_path / "home"


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    """A data set as the hub keeps it: three Parquet files to train on and one to validate on."""
    folder = tmp_path / "stories"
    (folder / "data").mkdir(parents=True)
    for shard in range(3):
        write_parquet(
            folder / f"data/train-{shard:05d}-of-00003.parquet",
            {"text": [f"story {shard}.{row}\r\nÄhre" for row in range(4)], "id": [0, 1, 2, 3]},
        )
    write_parquet(folder / "data/validation-00000-of-00001.parquet", {"text": ["v0", None, ""], "id": [7, 8, 9]})
    return folder


def write_parquet(path: Path, columns: dict[str, list[object]]) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


def documents(sources: list[Source] | None) -> list[str]:
    assert sources is not None
    found, text = [], ""
    for source in sources:
        for piece in source.pieces("utf-8", 3):
            if isinstance(piece, Mark):
                found.append(text)
                text = ""
            else:
                text += piece
    assert not text
    return found


def test_rows_of_parquet_are_documents_and_its_own_validation_split_is_taken(stories: Path) -> None:
    corpus = parse_address(f"hf:{stories}")
    assert recorded_hashes(corpus) is None
    train, val = fetch_corpus(corpus)
    assert documents(train) == [f"story {shard}.{row}\nÄhre" for shard in range(3) for row in range(4)]
    assert documents(val) == ["v0"]
    assert [source.location for source in train] == [f"hf:{stories}#train/{shard}" for shard in range(3)]
    assert recorded_hashes(corpus) == [source.sha256 for source in train]


def test_what_is_here_is_not_read_again_until_the_files_change(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = parse_address(f"hf:{stories}")
    fetch_corpus(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "_fetch", lambda *_: pytest.fail("fetched again"))
        fetch_corpus(corpus)
    write_parquet(stories / "data/train-00001-of-00003.parquet", {"text": ["new"], "id": [0]})
    assert "new" in documents(fetch_corpus(corpus)[0])


def test_a_killed_fetch_goes_on_with_the_next_shard(stories: Path, home: Path, capsys: pytest.CaptureFixture) -> None:
    program = f"""
import os
from quillgpt.text.sources import hub
fetch_shard = hub._fetch_shard
def dying(corpus, split, rows, number):
    if number == 2:
        rows = (row if index == 0 else os.kill(os.getpid(), 9) for index, row in enumerate(rows))
    return fetch_shard(corpus, split, rows, number)
hub._fetch_shard = dying
hub.fetch_corpus(hub.HubCorpus("{stories}"))
"""
    done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), capture_output=True, timeout=120)
    assert done.returncode == -9, done.stderr
    corpus = parse_address(f"hf:{stories}")
    finished = sorted((corpus.folder / "train").glob("*.txt"))
    assert [path.name for path in finished] == ["00000.txt", "00001.txt"]
    assert recorded_hashes(corpus) is None
    written = [path.stat().st_mtime_ns for path in finished]
    train, _ = fetch_corpus(corpus)
    assert "train: 2 of 3 shards are here already" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in finished] == written
    assert len(documents(train)) == 12


def test_a_missing_or_cut_shard_is_fetched_again(stories: Path) -> None:
    corpus = parse_address(f"hf:{stories}")
    before = documents(fetch_corpus(corpus)[0])
    (corpus.folder / "train/00001.txt").write_text("st")
    (corpus.folder / "train/00002.txt").unlink()
    assert documents(fetch_corpus(corpus)[0]) == before
    record = json.loads((corpus.folder / "corpus.json").read_text())
    for damaged in ("{", json.dumps(record | {"splits": {}}), json.dumps(record | {"splits": {"../..": []}})):
        (corpus.folder / "corpus.json").write_text(damaged)
        assert recorded_hashes(corpus) is None
        assert documents(fetch_corpus(corpus)[0]) == before


def test_json_lines_and_a_named_column(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    path.write_text("".join(json.dumps({"id": i, "body": f"letter {i}", "title": "t"}) + "\n" for i in range(3)))
    assert documents(fetch_corpus(parse_address(f"hf:{path}:body"))[0]) == ["letter 0", "letter 1", "letter 2"]
    with pytest.raises(DataError, match=r"no column named text; .*:COLUMN, with COLUMN one of body, title"):
        fetch_corpus(parse_address(f"hf:{path}"))
    with pytest.raises(DataError, match="has no column nothing; it has id, body, title"):
        fetch_corpus(parse_address(f"hf:{path}:nothing"))
    with pytest.raises(DataError, match=r"the column id of .* holds no text; columns with text are body, title"):
        fetch_corpus(parse_address(f"hf:{path}:id"))


def test_the_only_column_of_text_needs_no_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"sentence": ["x", "y"], "id": [1, 2]})
    assert documents(fetch_corpus(parse_address(f"hf:{tmp_path / 'a.parquet'}"))[0]) == ["x", "y"]


def test_a_text_file_is_one_document_with_its_lines(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "texts/b.txt").write_text("three")
    assert documents(fetch_corpus(parse_address(f"hf:{tmp_path / 'texts'}"))[0]) == ["one\n\ntwo\n", "three\n"]


def test_lines_become_articles_at_their_titles(tmp_path: Path) -> None:
    rows = ["", " = Ships = \n", " They float . \n", " = = Sails = = \n", " Wind . \n", " = Q = \n", " A letter . \n"]
    write_parquet(tmp_path / "wiki.parquet", {"text": rows})
    corpus = HubCorpus(str(tmp_path / "wiki.parquet"), rows="lines", title=r" = [^=](.*[^=])? = ")
    assert documents(fetch_corpus(corpus)[0]) == [
        " = Ships = \n They float . \n = = Sails = = \n Wind . \n",
        " = Q = \n A letter . \n",
    ]


def test_a_separator_in_a_text_does_not_cut_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["one\0half", "two"]})
    assert documents(fetch_corpus(parse_address(f"hf:{tmp_path / 'a.parquet'}"))[0]) == ["onehalf", "two"]


def test_parts_are_asked_for_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    for part in ("old", "new"):
        (folder / part).mkdir(parents=True)
        write_parquet(folder / part / "train.parquet", {"text": [part]})
    configs = "".join(f"- config_name: {part}\n  data_files: {part}/*.parquet\n" for part in ("old", "new"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert documents(fetch_corpus(HubCorpus(str(folder), config="new"))[0]) == ["new"]
    with pytest.raises(DataError, match=r"has several parts; name one: .*one of old, new"):
        fetch_corpus(HubCorpus(str(folder)))
    with pytest.raises(DataError, match="has no part young; it has old, new"):
        fetch_corpus(HubCorpus(str(folder), config="young"))


def test_a_data_set_without_text_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"text": ["", None]})
    with pytest.raises(DataError, match="has no text in it"):
        fetch_corpus(parse_address(f"hf:{tmp_path / 'a.parquet'}"))


@pytest.mark.parametrize(
    ("given", "repository", "config", "column"),
    [
        ("hf:owner/name", "owner/name", None, None),
        ("hf:owner/name:body", "owner/name", None, "body"),
        ("hf:owner/name/part:body", "owner/name", "part", "body"),
        ("hf:imdb", "imdb", None, None),
    ],
)
def test_addresses_are_read(given: str, repository: str, config: str | None, column: str | None) -> None:
    corpus = parse_address(given)
    assert (corpus.repository, corpus.config, corpus.column) == (repository, config, column)
    assert corpus.address == given


@pytest.mark.parametrize("given", ["hf:", "hf:a b/c", "hf:../nowhere", "hf:a/b/c/d"])
def test_an_address_that_names_nothing_is_refused(given: str) -> None:
    with pytest.raises(DataError, match="names no data set of the Hugging Face hub; expected hf:owner/name"):
        parse_address(given)


def test_the_missing_package_is_asked_for(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'quillgpt\[hub\]'"):
        fetch_corpus(parse_address(f"hf:{stories}"))


def test_a_hub_that_cannot_be_reached_is_said_in_one_line() -> None:
    program = "from quillgpt.text.sources import hub\nhub.fetch_corpus(hub.HubCorpus('nobody/nothing'))"
    environment = dict(os.environ) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "DataError: hf:nobody/nothing could not be read (" in done.stderr.splitlines()[-1]


def test_two_that_want_a_corpus_fetch_it_once(stories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, fetched, begun = hub._fetch, [], threading.Event()

    def slow(*arguments: Any) -> hub.CorpusRecord:
        fetched.append(arguments)
        begun.set()
        assert waits.wait(20)
        return fetch(*arguments)

    waits = threading.Event()
    monkeypatch.setattr(hub, "_fetch", slow)
    monkeypatch.setattr(hub, "say", lambda words: waits.set() if words.startswith("Waiting") else None)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch_corpus, HubCorpus(str(stories)))
        assert begun.wait(20)
        second = pool.submit(fetch_corpus, HubCorpus(str(stories)))
        assert documents(first.result(30)[0]) == documents(second.result(30)[0])
    assert len(fetched) == 1
