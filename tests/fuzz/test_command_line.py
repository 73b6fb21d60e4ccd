"""Whatever is typed after `quill`: it works, or one line says what was wrong."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzzing import check_message, fuzz
from quillgpt.cli import main
from quillgpt.config import EvalSettings, PrepareSettings, SampleSettings, TrainSettings
from quillgpt.config.layers import NOT_SETTINGS

SCHEMAS = (TrainSettings, SampleSettings, EvalSettings, PrepareSettings)
NAMES = sorted({name for schema in SCHEMAS for name in schema.model_fields} - {"data_dir"})
COMMANDS = ("train", "prepare", "sample", "eval", "info", "plot", "configs", "trian", "")

odd = st.sampled_from(
    ["", " ", "-", "--", "---", "-1", "nan", "inf", "9" * 5000, "1e999", "~nobody/x", "a" * 300, "\udcff", "é漢😀"]
)
values = (
    odd | st.text(max_size=8) | st.text(st.characters(exclude_characters="\0"), max_size=5) | st.integers().map(str)
)
flags = st.sampled_from(
    [*NAMES, "learning_rat", "help", "version", "json", "terminal", "out", "dry_run", "quiet"]
) | st.text(max_size=6)
words = (
    st.builds("--{}={}".format, flags, values)
    | flags.map("--{}".format)
    | st.sampled_from(["run.toml", "run.py", "empty", "shakespeare_char_cpu", "-h", "--no-bias"])
    | values
).filter(lambda word: "\0" not in word and "://" not in word)
command_lines = st.tuples(st.sampled_from(COMMANDS), st.lists(words, max_size=4)).map(lambda line: [line[0], *line[1]])
"""No data set is ever there, and nothing has an address: no line can train, or fetch anything."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("QUILL_") and name not in NOT_SETTINGS]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("QUILL_MIRROR", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "run.toml").write_text('extends = "shakespeare_char_cpu"\nlearning_rate = 1\n')
    (tmp_path / "run.py").write_text("learning_rate = 1/0\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


@fuzz(200, line=command_lines)
def test_any_command_line(folder: Path, capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    status = main(line)
    out, err = capsys.readouterr()
    assert "fault of Quill's own" not in err, err
    assert "Traceback" not in out + err
    if status:
        last = err.rstrip("\n").split("\n")[-1]
        assert last.startswith("quill: "), err
        check_message(last)
