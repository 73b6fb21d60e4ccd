"""Files that the lab did not write stay in the folder of its results."""

from __future__ import annotations

import pytest

from quillgpt.cli.lab import results_folder
from quillgpt.errors import ConfigError
from quillgpt.tables import ResultTable

TABLE = ResultTable("losses", {"loss": ".2f"}, [{"loss": 1.0}])


@pytest.mark.parametrize("name", ["swap.csv", "swap.md", "swap.png", "swap.svg"])
def test_files_of_somebody_else_are_named_before_anything_is_computed(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name):
        results_folder(tmp_path, ["swap"], ["swap"])
    assert (tmp_path / name).read_text() == "mine"


def test_a_table_is_written_over_until_somebody_changes_it(tmp_path):
    TABLE.write(tmp_path, "swap")
    TABLE.write(tmp_path, "swap")
    results_folder(tmp_path, ["swap"])
    (tmp_path / "swap.md").write_text("edited")
    with pytest.raises(ConfigError, match=r"swap\.md, not written by Quill or changed since; give another --out"):
        TABLE.write(tmp_path, "swap")
    assert (tmp_path / "swap.md").read_text() == "edited"
