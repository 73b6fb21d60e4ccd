"""Reads the settings of a preset, a TOML file with what it extends, or a nanoGPT config file."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from quillgpt.config.foreign import describe_file, describe_tables, meant_setting
from quillgpt.config.layers import Layer
from quillgpt.config.nanogpt_config import read_nanogpt
from quillgpt.config.paths import exists, expand
from quillgpt.config.schema import TrainFields
from quillgpt.console import say, warn
from quillgpt.errors import ConfigError, did_you_mean, join_names, shorten

EXTENDS = "extends"
OWN_TEXT = "own_text"
"""The default preset if `data` is set."""

USUAL_DATA_DIR = str(TrainFields.model_fields["data_dir"].default)
SUFFIXES = (".toml", ".py")
MOST_NAMED = 30
"""Names that a message lists."""


@cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, sorted."""
    return tuple(sorted(Path(entry.name).stem for entry in _presets().iterdir() if entry.name.endswith(".toml")))


def preset_description(name: str) -> str:
    """Return the description of a preset, the comment in its first line."""
    text = (_presets() / f"{_preset_name(name)}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("#").strip()


def source_layers(source: str) -> list[Layer]:
    """Return the layers of a preset or a file, after those that it extends.

    Raises:
        ConfigError: A preset or file does not exist or cannot be read, or `extends` runs in a circle.
    """
    layers: list[Layer] = []
    seen: list[str] = []
    following: str | None = source
    folder = Path()
    while following is not None:
        is_file = following.endswith(SUFFIXES)
        path = folder / expand(following)
        identity = _identity(path) if is_file else _preset_name(following)
        if identity in seen:
            circle = " -> ".join([*(Path(name).name for name in seen), Path(identity).name])
            raise ConfigError(f"extends runs in a circle: {circle}")
        seen.append(identity)
        layer = _read_file(path) if is_file else _read_preset(identity)
        following, layer = _split_extends(layer)
        layers.append(layer)
        folder = path.parent if is_file else Path()
    return layers[::-1]


def _identity(path: Path) -> str:
    if "\0" in str(path) or not exists(path) or path.is_dir():
        raise ConfigError(f"{path} does not exist{_preset_for(path)}")
    return str(path.resolve())


def _presets() -> Traversable:
    return files("quillgpt.config") / "presets"


def _preset_name(given: str) -> str:
    name = given.replace("-", "_")
    if name in preset_names():
        return name
    run = Path(given) / "config.toml"
    if exists(run):
        raise ConfigError(f"{given} is a folder, not a preset; its settings are in {run}")
    path = Path(given)
    if exists(path) and path.is_file() and (described := describe_file(path)):
        raise ConfigError(described)
    if exists(path) and path.is_dir():
        raise ConfigError(f"{given} is a folder, not a preset; to train on the texts in it: quill train --data {given}")
    if exists(prepared := Path(USUAL_DATA_DIR) / given) and given.strip("./"):
        raise ConfigError(
            f"{given} is not a preset; to train on what is in {prepared}: quill train {OWN_TEXT} --dataset={given} "
            f"--out_dir=out-{given}"
        )
    hint = did_you_mean(name, preset_names()) or "; quill configs lists the presets"
    raise ConfigError(f"{given} is not a preset, nor a .toml or .py file{hint}")


def _read_preset(name: str) -> Layer:
    text = (_presets() / f"{name}.toml").read_text(encoding="utf-8")
    return Layer(tomllib.loads(text), f"in the preset {name}", shipped=True)


def _read_file(path: Path) -> Layer:
    return _read_python(path) if path.suffix == ".py" else _read_toml(path)


def _preset_for(path: Path) -> str:
    """Return a hint for a missing config file of nanoGPT whose values a preset has."""
    stem = path.stem.replace("-", "_")
    for name in (stem, stem.removeprefix("train_")):
        if name in preset_names():
            return f"; the preset {name} has nanoGPT's values: quill train {name}"
    return ""


def _read_toml(path: Path) -> Layer:
    try:
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}{_backslash_hint(path)}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, a thousand brackets
        raise ConfigError(f"{path} holds a value that is too long to be a setting") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if any(isinstance(value, dict) for value in values.values()):
        raise ConfigError(f"{path} {describe_tables(values)}")
    for name, value in values.items():
        if isinstance(value, str) and any(character < " " for character in value):
            warn(f"{name} = {shorten(value)} in {path} has a control character in it{_backslash_hint(path)}")
    return Layer(values, f"in {path}")


def _backslash_hint(path: Path) -> str:
    """Return a hint for a Windows path in double quotes, in which TOML reads backslashes as escapes such as `\\n`."""
    if b"\\" not in path.read_bytes():
        return ""
    return r"; in double quotes a backslash begins a special character: write 'C:\books' in single quotes, or C:/books"


def _read_python(path: Path) -> Layer:
    defaults = {name: setting.default for name, setting in TrainFields.model_fields.items()}
    read = read_nanogpt(path, defaults)
    known = {name: value for name, value in read.values.items() if name in defaults}
    ignored = [
        f"{name} (did you mean {meant}?)" if (meant := meant_setting(name, defaults)) else name
        for name in (*read.values, *read.ignored)
        if name not in defaults
    ]
    if ignored:
        warn(f"{path} sets what is no setting of Quill, ignored: {join_names(ignored, MOST_NAMED)}")
    if read.chosen:
        say(f"{path} asks the machine for {', '.join(read.chosen)}; Quill chooses it (auto)")
    if read.skipped:
        say(
            f"{path} is read, not run; skipped, since no setting depends on it: " + join_names(read.skipped, MOST_NAMED)
        )
    return Layer(known, f"in {path}", lax=True)


def _split_extends(layer: Layer) -> tuple[str | None, Layer]:
    if EXTENDS not in layer.values:
        return None, layer
    following = layer.values[EXTENDS]
    if not isinstance(following, str):
        raise ConfigError(f"{layer.describe(EXTENDS, following)} must be the name of a preset or a file")
    rest = {name: value for name, value in layer.values.items() if name != EXTENDS}
    return following, Layer(rest, layer.place, layer.prefix, layer.lax, layer.shipped)
