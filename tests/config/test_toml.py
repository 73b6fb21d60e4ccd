"""Settings written as TOML are the same settings when they are read."""

import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quillgpt.config import SampleSettings, TrainSettings, preset_names, resolve, to_toml
from quillgpt.errors import ConfigError

words = st.text().filter(lambda text: text.strip().lower() != "none" and "\0" not in text)
numbers = st.floats(min_value=0, max_value=1e300)
fractions = st.floats(min_value=0, max_value=1, exclude_max=True)

settings = st.builds(
    TrainSettings,
    out_dir=words,
    dataset=words,
    init_from=words,
    data=st.none() | words,
    tokenizer=st.none() | words,
    learning_rate=numbers,
    min_lr=numbers,
    dropout=fractions,
    beta2=fractions,
    max_iters=st.integers(min_value=0, max_value=10**12),
    eval_iters=st.none() | st.integers(1, 10**12),
    vocab_size=st.none() | st.integers(1, 10**7),
    compile=st.sampled_from([True, False, "auto"]),
    bias=st.booleans(),
    lr_schedule=st.sampled_from(["cosine", "wsd"]),
)


@given(written=settings, comments=st.booleans())
def test_round_trip(written: TrainSettings, comments: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        path.write_bytes(to_toml(written, comments=comments).encode())
        assert resolve(str(path), {}, environ={}, dotenv=None) == written


@pytest.mark.parametrize(
    "text",
    [
        r"C:\new\books\tale.txt",
        r"\\server\share\run",
        '"',
        "\\",
        "a\nb",
        "\r\n\t",
        "\x00\x1b\x7f",
        "Ünï\u2028🙂",
        "'''",
        "#",
        "x = 1",
    ],
)
def test_odd_text_survives(text: str) -> None:
    assert tomllib.loads(to_toml(TrainSettings(dataset=text)))["dataset"] == text


def test_unset_settings() -> None:
    values = tomllib.loads(to_toml(TrainSettings(eval_iters=None)))
    assert values["eval_iters"] == "none"  # its default is a number
    assert "n_kv_head" not in values
    assert set(values) | {name for name, value in TrainSettings() if value is None} == set(TrainSettings.model_fields)


@pytest.mark.parametrize("name", preset_names())
def test_presets_round_trip(name: str, tmp_path: Path) -> None:
    shown = resolve(name, {}, environ={}, dotenv=None)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(shown), encoding="utf-8")
    assert resolve(str(path), {}, environ={}, dotenv=None) == shown


def test_comments_explain_each_setting() -> None:
    text = to_toml(SampleSettings(), comments=True)
    assert "# Samples to draw.\nnum_samples = 10\n" in text
    assert "# Samples to draw." not in to_toml(SampleSettings())


def test_a_path_of_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"

    def read(line: str) -> TrainSettings:
        path.write_text(f"{line}\n", encoding="utf-8")
        return resolve(str(path), {}, environ={}, dotenv=None)

    assert read(r"out_dir = 'C:\new\run'").out_dir == r"C:\new\run"
    assert read(r'out_dir = "C:\\new\\run"').out_dir == r"C:\new\run"
    assert capsys.readouterr().err == ""
    read(r'out_dir = "C:\new\run"')  # a new line and a carriage return
    assert "write 'C:\\books' in single quotes" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="in single quotes"):
        read(r'out_dir = "C:\books\quill"')
