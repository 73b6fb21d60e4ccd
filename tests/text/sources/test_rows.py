import gzip
import json
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quillgpt.errors import DataError
from quillgpt.text.sources.rows import FileRows


def texts(tmp_path: Path, name: str, content: str | bytes, column: str | None = None) -> list[str]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = FileRows(path, column)
    assert list(rows) == list(rows)
    return [value for row in rows for value in row.values()]


GOOD = {
    "lines.jsonl": '{"text": "one", "n": 1}\n\n{"text": "two"}\r\n',
    "mark.jsonl": '\ufeff{"text": "one"}\n{"text": "two"}\n',
    "strings.jsonl": '"one"\n"two"\n',
    "array.json": '[{"text": "one"},\n {"text": "two"}]',
    "strings.json": '["one", "two"]',
    "lines.json": '{"text": "one"}\n{"text": "two"}\n',
    "columns.json": '{"text": ["one", "two"], "n": [1, 2]}',
    "wrapped.json": '{"version": 1, "data": [{"text": "one"}, {"text": "two"}]}',
    "pretty.json": '[\n  {\n    "text": "one"\n  },\n  {"text": "two"}\n]\n',
    "plain.csv": "id,text\n1,one\n2,two\n",
    "semicolon.csv": "id;text\n1;one\n2;two\n",
    "tabs.tsv": "id\ttext\n1\tone\n2\ttwo\n",
    "quoted.csv": 'text,n\n"one",1\n"two",\n',
    "blank.csv": "\ntext\none\n\ntwo\n",
    "twice.csv": "text,text\none,x\ntwo,y\n",
    "only.csv": "sentence,n\none,1\ntwo,2\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_in_every_usual_form_are_texts(tmp_path, name):
    assert texts(tmp_path, name, GOOD[name]) == ["one", "two"]
    assert texts(tmp_path, name, GOOD[name].replace("one", "größe").encode("utf-8"))[0] == "größe"


def test_words_for_nothing_and_numbers_are_text_in_a_csv(tmp_path):
    words = ["NA", "null", "nan", "None", "N/A", "12", "1.50", "true"]
    assert texts(tmp_path, "a.csv", "id,text\n" + "".join(f"{at},{word}\n" for at, word in enumerate(words))) == words


def test_a_number_among_texts_is_text_and_what_is_not_there_is_none(tmp_path, capsys):
    lines = [{"text": "one"}, {"text": 2}, {"text": 2.5}, {"text": True}, {"text": None}, {"other": 1}]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    assert texts(tmp_path, "a.jsonl", content) == ["one", "2", "2.5", "true"]
    assert "2 rows have no text in text" in capsys.readouterr().err


def test_a_value_within_an_object_is_named_with_dots(tmp_path):
    content = '{"data": {"text": "one", "n": 1}}\n{"data": {"text": "two"}}\n'
    assert texts(tmp_path, "a.jsonl", content, "data.text") == ["one", "two"]
    with pytest.raises(DataError, match=r"has no column text; it has data, data\.text, data\.n"):
        texts(tmp_path, "a.jsonl", content, "text")
    pq.write_table(pa.table({"data": [{"text": "one"}], "n": [1]}), tmp_path / "a.parquet")
    assert list(FileRows(tmp_path / "a.parquet", "data.text")) == [{"data.text": "one"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "two"\n', r"a\.jsonl, line 2: no JSON \(Expecting"),
        ("a.jsonl", '{"text": "one"}\n\n[1, 2]\n', r"a\.jsonl, line 3: \[1, 2\], and an object is expected"),
        ("a.jsonl", '{"text": ["one"]}\n', r"a\.jsonl, line 1: text holds a list"),
        ("a.jsonl", '{"text": "one"}\n{"text": {"x": 1}}\n', r"a\.jsonl, line 2: text holds an object"),
        ("a.jsonl", "3\n", r"a\.jsonl, line 1: 3, and an object is expected"),
        ("a.jsonl", '{"body": "one"}\n', "has no column text; it has body"),
        ("a.jsonl", '{"text": 1}\n{"text": 2}\n', "holds no text; columns with text are none"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: no JSON|a\.jsonl: no JSON"),
        ("a.json", '{"text": "one",\n}', r"a\.json, line 2: no JSON"),
        (
            "a.csv",
            "id,text\n1,one\n2,a,b,c\n",
            r"a\.csv, line 3: 4 values, and the header names 2 columns \(id, text\)",
        ),
        ("a.csv", 'id,text\n1,one\n2,"open\n', r"a\.csv, from line 3 on: unexpected end of data"),
        ("a.csv", "id,text\n", "has no rows"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", "\n\n", "has no rows"),
        ("a.parquet", b"PAR1 and no more", r"a\.parquet is damaged or no Parquet file"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz is damaged or cannot be read"),
        ("a.xml", "<a/>", "has no rows that can be read; expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_nothing_of_a_connection(tmp_path, name, content, said):
    with pytest.raises(DataError, match=said) as caught:
        texts(tmp_path, name, content, "text")
    assert "connection" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_column_is_named_where_several_hold_text(tmp_path):
    with pytest.raises(DataError, match=r"no column named text; .*:COLUMN, with COLUMN one of title, body"):
        texts(tmp_path, "a.csv", "id,title,body\n1,one,two\n")


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig"])
def test_other_encodings_are_read_and_told_once(tmp_path, capsys, encoding):
    content = ("id,text\n" + "1,größe und maß in häusern\n" * 30).encode(encoding)
    assert texts(tmp_path, "a.csv", content)[0] == "größe und maß in häusern"
    assert capsys.readouterr().err.count("is not UTF-8") == (encoding != "utf-8-sig") * 1


def test_packed_files_are_read(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    assert list(FileRows(tmp_path / "a.jsonl.gz", None)) == [{"text": "one"}]
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", "text\none\n")
    assert list(FileRows(tmp_path / "a.csv.zip", None)) == [{"text": "one"}]
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "a") as archive:
        archive.writestr("b.csv", "text\none\n")
    with pytest.raises(DataError, match="holds 2 files; unpack it"):
        FileRows(tmp_path / "a.csv.zip", None)


def test_lone_surrogates_do_not_end_it(tmp_path):
    assert texts(tmp_path, "a.jsonl", '{"text": "a\\ud800b"}\n') == ["a\ufffdb"]


def test_no_package_is_needed_but_for_parquet(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert texts(tmp_path, "a.jsonl", '{"text": "one"}\n') == ["one"]
    assert texts(tmp_path, "a.csv", "text\none\n") == ["one"]


def test_a_parquet_file_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("quillgpt.text.sources.rows.LEAST_SUSPECT_BYTES", 1000)
    monkeypatch.setattr("quillgpt.text.sources.rows.LARGEST_RATIO", 2)
    pq.write_table(pa.table({"text": ["a" * 100_000] * 10}), tmp_path / "a.parquet", use_dictionary=False)
    with pytest.raises(DataError, match=r"unpacks to .* bytes, as no text does"):
        FileRows(tmp_path / "a.parquet", None)
