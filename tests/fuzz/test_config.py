"""Whatever a person writes into a config file, the environment or a flag: settings, or one clear line."""

import math
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from fuzzing import damage, fuzz, only_user_errors, randoms
from quillgpt.config import (
    EvalSettings,
    PrepareSettings,
    SampleSettings,
    TrainSettings,
    preset_names,
    resolve,
    resolve_flat,
)
from quillgpt.config.nanogpt_config import read_nanogpt

DEFAULTS = {name: field.default for name, field in TrainSettings.model_fields.items()}
COMMANDS = {
    **{partial(resolve_flat, schema): schema for schema in (SampleSettings, EvalSettings, PrepareSettings)},
    lambda flags, **places: resolve(None, flags, **places): TrainSettings,
}
NAMES = sorted({name for schema in COMMANDS.values() for name in schema.model_fields} | {"extends"})
names = st.sampled_from(NAMES) | st.text(max_size=12)

anything = st.text(max_size=20) | st.text(st.characters(), max_size=8)  # the second with lone surrogates
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), math.nan, math.inf, 1e-320, 2**63])
spelled = (
    numbers.map(str)
    | anything
    | st.sampled_from(
        ["", "none", "true", "auto", "nan", "1_000", "0x10", "1e9", "٣", "1" * 5000, "bpe:0", "10m", "cuda:9"]
    )
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toml(value: object) -> str:
    """Spell a value as TOML does, where it can."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08X}" if c < " " or c in '"\\' or c > "~" else c for c in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(each)}" for name, each in value.items()) + "}"
    return str(value)


toml_values = st.recursive(
    st.booleans() | numbers | anything,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(anything, inner, max_size=2),
    max_leaves=5,
).map(toml)
odd_toml = st.sampled_from(
    [
        "1979-05-27",
        "07:32:00",
        "2024-13-45",
        "0x" + "f" * 5000,
        "9" * 5000,
        "'''\n\\n'''",
        "1e",
        "[" * 3000,
        "-0o7",
        "+nan",
    ]
)
preset_like = st.sampled_from([*preset_names(), "run.toml", "./run.toml", "config.py", "no.toml", "\0.toml", "x" * 300])
lines = st.builds("{} = {}".format, names.map(lambda name: name or "''"), toml_values | odd_toml)
extending = st.builds('extends = "{}"'.format, preset_like)


@fuzz(1500, text=st.lists(lines | extending | anything, max_size=4).map("\n".join))
def test_a_toml_file(folder: Path, text: str) -> None:
    (folder / "run.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with only_user_errors():
        resolve("run.toml", {}, environ={}, dotenv=None)


@fuzz(600, content=st.binary(max_size=60))
def test_bytes_that_are_called_config(folder: Path, content: bytes) -> None:
    for name in ("run.toml", "run.py"):
        (folder / name).write_bytes(content)
        with only_user_errors():
            resolve(name, {}, environ={}, dotenv=None)
    (folder / ".env").write_bytes(b"QUILL_" + content)
    with only_user_errors():
        resolve("train_gpt2", {}, environ={})


@fuzz(1500, name=st.sampled_from(NAMES), value=toml_values | odd_toml)
def test_every_setting_with_every_value_in_toml(folder: Path, name: str, value: str) -> None:
    (folder / "run.toml").write_text(f"{name} = {value}", encoding="utf-8")
    with only_user_errors():
        resolve("run.toml", {}, environ={}, dotenv=None)


@fuzz(1000, command=st.sampled_from(list(COMMANDS)), flags=st.dictionaries(names, spelled, max_size=4))
def test_flags(folder: Path, command: Any, flags: dict[str, str]) -> None:
    with only_user_errors():
        command(flags, environ={}, dotenv=None)


variables = st.dictionaries(names.map(lambda name: f"QUILL_{name.upper()}"), spelled, max_size=3)


@fuzz(700, command=st.sampled_from(list(COMMANDS)), environ=variables)
def test_the_environment(folder: Path, command: Any, environ: dict[str, str]) -> None:
    with only_user_errors():
        command({}, environ=environ, dotenv=None)


@fuzz(700, command=st.sampled_from(list(COMMANDS)), given=variables, quote=st.sampled_from(["", '"', "'", "#"]))
def test_a_dotenv_file(folder: Path, command: Any, given: dict[str, str], quote: str) -> None:
    text = "\n".join(f"{name}={quote}{value}{quote}" for name, value in given.items())
    (folder / ".env").write_bytes(text.encode("utf-8", "surrogatepass"))
    with only_user_errors():
        command({}, environ={})


@fuzz(500, source=preset_like | anything, flags=st.dictionaries(names, spelled, max_size=2))
def test_what_stands_where_a_preset_is_expected(folder: Path, source: str, flags: dict[str, str]) -> None:
    with only_user_errors():
        resolve(source, flags, environ={}, dotenv=None)


EXPRESSIONS = (
    *(
        "1",
        "-1",
        "0.5",
        "1e999",
        "True",
        "None",
        "'a'",
        "b'a'",
        "...",
        "1j",
        "[]",
        "(1, 'a')",
        "{}",
        "{1}",
        "0x" + "f" * 5000,
    ),
    *("9" * 5000, "str(time.time())", "__import__('os').system('touch ran')", "open('ran', 'w')", "(lambda: 1)()"),
    *(
        "[x for x in y]",
        "f'{a}'",
        "a.b",
        "a[0]",
        "a if b else c",
        "not a",
        "~1",
        "'a' * 9**9",
        "(" * 300 + "1" + ")" * 300,
    ),
    *(
        "learning_rate",
        "a",
        "b",
        "-" * 3000 + "1",
        "1" + "+1" * 3000,
        "[" * 150 + "]" * 150,
        "[a, a, a, a, a, a, a, a, a, a]",
    ),
)
expressions = st.recursive(
    st.sampled_from(EXPRESSIONS),
    lambda inner: (
        st.builds(
            "({} {} {})".format,
            inner,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<<", "@", "and", "<"]),
            inner,
        )
        | st.builds("[{}, {}]".format, inner, inner)
    ),
    max_leaves=6,
)
targets = st.sampled_from([*NAMES, "a", "b", "_a", "a.b", "a[0]", "a, b", "a = b", "a +", "a: int", "*a", "global"])
OTHERS = (
    "import time",
    "import os",
    "from os import *",
    "'words'",
    "pass",
    "if a: b = 1",
    "while 1: pass",
    "def a(): 0",
)
statements = st.builds("{} = {}".format, targets, expressions) | st.sampled_from(OTHERS) | anything


@fuzz(1000, text=st.lists(statements, max_size=6).map("\n".join))
def test_a_python_file_is_read_and_never_run(folder: Path, text: str) -> None:
    (folder / "config.py").write_bytes(text.encode("utf-8", "surrogatepass"))
    with only_user_errors():
        read_nanogpt(folder / "config.py", DEFAULTS)
    with only_user_errors():
        resolve("config.py", {}, environ={}, dotenv=None)
    assert not (folder / "ran").exists()


PRESET = "shakespeare_char"


@fuzz(300, random=randoms)
def test_a_damaged_preset(folder: Path, random: Any) -> None:
    content = (files("quillgpt.config") / "presets" / f"{PRESET}.toml").read_bytes()
    (folder / "run.toml").write_bytes(damage(content, random))
    with only_user_errors():
        resolve("run.toml", {}, environ={}, dotenv=None)
