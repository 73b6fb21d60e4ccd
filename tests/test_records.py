import os

import pytest
from pydantic import Field

from quillgpt.errors import CheckpointError, DataError, UserError, shorten
from quillgpt.records import DEEPEST, Record, read_json, read_record


class Inner(Record):
    name: str


class Outer(Record):
    count: int
    rate: float | None = None
    either: int | str = 0
    parts: list[Inner] = Field(default_factory=list)
    table: dict[str, int] = Field(default_factory=dict)


def refusal(path, content, schema=Outer, **options):
    """Return the message for a file with this content, after checking that it is one line that names the file."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_record(path, schema, DataError, mend="make it again", **options)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert message.endswith("; make it again"), message
    assert len(message) < len(str(path)) + 250, message
    return message.removeprefix(str(path)).removesuffix("; make it again").strip()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.json"


def test_a_file_that_fits_is_read_as_what_it_says(path):
    path.write_text('{"count": 3, "rate": 2, "either": "x", "parts": [{"name": "a"}], "table": {"b": 1}}')
    record = read_record(path, Outer, DataError, mend="")
    assert record == Outer(count=3, rate=2.0, either="x", parts=[Inner(name="a")], table={"b": 1})
    assert read_record(path, dict[str, object], DataError, mend="")["count"] == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"count": "3"}', "is damaged: count is '3', expected a whole number"),
        ('{"count": 3.0}', "is damaged: count is 3.0, expected a whole number"),
        ('{"count": true}', "is damaged: count is True, expected a whole number"),
        ('{"count": 1, "rate": "x"}', "is damaged: rate is 'x', expected a number"),
        ('{"count": 1, "rate": NaN}', "is damaged: rate is nan, expected a finite number"),
        ('{"count": 1, "rate": 1e999}', "is damaged: rate is inf, expected a finite number"),
        ('{"count": 1, "either": []}', "is damaged: either is [], expected a whole number or text"),
        ('{"count": 1, "parts": [{"name": "a"}, {"name": null}]}', "is damaged: parts.1.name is None, expected text"),
        ('{"count": 1, "parts": {}}', "is damaged: parts is {}, expected a list"),
        ('{"count": null, "parts": null}', "is damaged: count is None, expected a whole number"),
        ('{"count": 1, "parts": [3]}', "is damaged: parts.0 is 3, expected an object"),
        ('{"count": 1, "table": {"a": "b"}}', "is damaged: table.a is 'b', expected a whole number"),
        ("{}", "is damaged: count is missing"),
        ('{"count": 1, "size": 2}', "is damaged: size is an unknown name"),
        ("[]", "is damaged: the content is [], expected an object"),
        ("3", "is damaged: the content is 3, expected an object"),
        ("", "is damaged: no JSON (Expecting value at line 1, column 1)"),
        ('{"count": 1', "is damaged: no JSON (Expecting ',' delimiter at line 1, column 12)"),
        ('{"count": 1}\n x', "is damaged: no JSON (Extra data at line 2, column 2)"),
        (b'{"count": "\xff"}', "is damaged: byte 11 is not UTF-8"),
        ('{"count": ' + "9" * 5000 + "}", "is damaged: it has a number of thousands of digits"),
        ("[" * 100_000, "is damaged: its lists and objects are nested more than 100 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "is damaged: its lists and objects are nested more than 100 deep"),
    ],
)
def test_whatever_does_not_fit_is_refused_by_name(content, said, path):
    assert refusal(path, content) == said


def test_a_long_value_is_quoted_in_part(path):
    assert "xxx...xxx" in refusal(path, '{"count": "' + "x" * 5000 + '"}')
    assert "xxx...xxx" in refusal(path, '{"count": 1, "' + "x" * 5000 + '": 1}')
    assert "999...999" in refusal(path, '{"count": 1, "rate": ' + "9" * 4000 + "}")
    assert "..." in refusal(path, '{"count": [' + "1, " * 5000 + "1]}")


def test_a_type_that_is_no_record_is_as_strict(path):
    assert refusal(path, '{"a": "1"}', dict[str, int]) == "is damaged: a is '1', expected a whole number"
    assert refusal(path, '{"a": Infinity}', dict[str, float]) == "is damaged: a is inf, expected a finite number"


def test_a_byte_order_mark_a_repeated_name_and_a_lone_surrogate_are_read(path):
    path.write_bytes(b'\xef\xbb\xbf{"count": 1, "count": 2, "either": "a\\udcff"}')
    assert read_record(path, Outer, DataError, mend="") == Outer(count=2, either="a\udcff")


def test_what_is_no_deeper_than_allowed_is_read(path):
    path.write_text("[" * DEEPEST + "]" * DEEPEST)
    assert len(read_json(path, DataError, mend="")) == 1


def test_a_file_that_is_too_large_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)  # all holes
    with pytest.raises(
        CheckpointError, match=r"some.json has 1,099,511,627,776 bytes, too many for a file of this kind"
    ):
        read_json(path, CheckpointError, mend="restore it")
    assert "has 12 bytes" in refusal(path, '{"count": 1}', largest_bytes=11)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_missing_file_a_folder_and_a_pipe_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("{}")
    for name, said in [
        ("nothing", "is missing"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("file/below", "is missing"),
        ("a\0b", "cannot be read"),
        ("a" * 300, "cannot be read"),
    ]:
        with pytest.raises(UserError, match=said):
            read_json(tmp_path / name, UserError, mend="restore it")


def test_a_value_is_quoted_whole_where_it_is_short_and_in_part_where_it_is_not():
    assert shorten("yarn") == "'yarn'"
    assert shorten(None) == "None"
    for value in ("a" * 500, list(range(1000)), 10**4000, {"a" * 100: ["b" * 100] * 9}, b"x" * 300):
        assert len(shorten(value)) == 80 or "..." in shorten(value)
        assert len(shorten(value)) <= 80
    assert shorten(10**10_000) == "a number of thousands of digits"
