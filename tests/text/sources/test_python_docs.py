import sys

import pytest

from quillgpt.errors import DataError
from quillgpt.text.sources.python_docs import prose_paragraphs, python_docs_file, python_docs_text


def test_prose_is_kept_and_code_is_not():
    text = (
        "The list ``sorted`` by this function is\n"
        "a new one; the list given stays as it was.\n\n"
        "    for item in items:\n        print(item)\n\n"
        ">>> sorted([3, 1, 2]) and this is a doctest that is quite long.\n\n"
        "Too short.\n\n"
        "Its name was chosen by Łukasz, whose letters are outside of ASCII.\n"
    )
    assert list(prose_paragraphs(text)) == [
        "The list sorted by this function is a new one; the list given stays as\nit was."
    ]


def library(tmp_path):
    first = "Return the sum of all the numbers that were given to it."
    second = "Return the product of all the numbers that were given."
    (tmp_path / "b.py").write_text(f'"""{first}"""\n\ndef f():\n    """{second}"""\n\nraise SystemExit\n')
    (tmp_path / "a.py").write_text(f'"""{second}"""\n')
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text('"""Test that nothing of the tests is taken into the text at all."""\n')
    return f"{second}\n\n{first}\n"


def test_docstrings_come_by_module_name_each_paragraph_once_and_no_module_runs(tmp_path):
    expected = library(tmp_path)
    assert python_docs_text(tmp_path) == expected


def test_a_python_without_its_source_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no Python source"):
        python_docs_text(tmp_path)


def test_this_interpreters_text_is_long_clean_and_made_once():
    before = set(sys.modules)
    path = python_docs_file()
    assert not {"pydoc_data.topics", "antigravity", "this"} & (set(sys.modules) - before)
    text = path.read_text(encoding="ascii")
    assert len(text) > 300_000
    assert set(text) <= {"\n", *map(chr, range(32, 127))}
    paragraphs = text.strip().split("\n\n")
    assert len(paragraphs) == len(set(paragraphs))
    modified = path.stat().st_mtime_ns
    assert python_docs_file() == path
    assert path.stat().st_mtime_ns == modified
