"""Layers of settings: the places where a person sets something, each overriding the one before."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quillgpt.config.foreign import meant_setting
from quillgpt.config.schema import (
    EvalSettings,
    LabSettings,
    PrepareSettings,
    SampleSettings,
    Settings,
    SwapSettings,
    TrainFields,
)
from quillgpt.config.values import read_value
from quillgpt.console import QUIET_VARIABLE
from quillgpt.errors import ConfigError

ENVIRONMENT_PREFIX = "QUILL_"
FOLDERS = frozenset({"QUILL_HOME", "QUILL_MIRROR"})
"""Environment variables that say from where files are taken, among them code; a `.env` must not say that."""

PLACES = FOLDERS | {QUIET_VARIABLE}
"""Environment variables that are no settings."""

LARGEST_INTEGER_BITS = 1024
LONGEST_SHOWN = 200
"""Characters of a value that a message repeats."""

COMMANDS: tuple[type[Settings], ...] = (
    TrainFields,
    SampleSettings,
    EvalSettings,
    PrepareSettings,
    LabSettings,
    SwapSettings,
)


@dataclass(frozen=True)
class Layer:
    """Values from one place, and how that place spells and types them.

    Attributes:
        values: What was set, by the setting's name.
        place: Where, as the end of a sentence's subject: `in run.toml`; empty for flags.
        prefix: What stands before a name there: `--`, `QUILL_`, or nothing.
        lax: The place has only text, or Python's loose numbers; see `read_value`.
        shipped: The values are a preset's: the person chose them all together, not each.
    """

    values: Mapping[str, object]
    place: str = ""
    prefix: str = ""
    lax: bool = False
    shipped: bool = False

    @property
    def name(self) -> str:
        """The place in a word or two: `flags`, `environment`, `preset demo`, `run.toml`."""
        return self.place.removeprefix("in ").removeprefix("the ") or "flags"

    def spell(self, name: str) -> str:
        """Return a setting's name as this place spells it."""
        shown = _written(name, as_python=not name)
        return self.prefix + (shown.upper() if self.prefix == ENVIRONMENT_PREFIX else shown)

    def describe(self, name: str, value: object) -> str:
        """Return `name = value in place`, as it was written there."""
        equals = "=" if self.prefix else " = "
        written = _written(value, as_python=not self.prefix)
        return " ".join(filter(None, [f"{self.spell(name)}{equals}{written}", self.place]))


def merge_layers(schema: type[Settings], layers: Iterable[Layer]) -> dict[str, object]:
    """Check every layer and return the values that win, the last layer's first.

    Raises:
        ConfigError: A name is unknown or a value does not fit, also where a later layer overrides it.
    """
    merged: dict[str, object] = {}
    for layer in layers:
        for name, value in layer.values.items():
            field = schema.model_fields.get(name)
            if field is None:
                raise unknown_setting(name, layer, known=schema.model_fields)
            if isinstance(value, str) and "\0" in value:  # no path and no text can have one
                raise ConfigError(f"{layer.describe(name, value)} has a NUL character in it; leave it out")
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise ConfigError(f"{layer.describe(name, value)} is not UTF-8, and cannot be recorded; rename it")
            try:
                read = merged[name] = read_value(field, value, lax=layer.lax)
            except ValueError as expected:
                raise ConfigError(f"{layer.describe(name, value)} must be {expected}") from None
            if isinstance(read, int) and read.bit_length() > LARGEST_INTEGER_BITS:
                raise ConfigError(f"{layer.describe(name, value)} is too large a number")
    return merged


def unknown_setting(name: str, layer: Layer, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that is no setting, with the one that was probably meant."""
    meant = meant_setting(name, known)
    subject = " ".join(filter(None, [layer.spell(name), layer.place]))
    return ConfigError(f"{subject} is unknown" + (f"; did you mean {layer.spell(meant)}?" if meant else ""))


def flag_layer(flags: Mapping[str, object]) -> Layer:
    """Return what was given on the command line."""
    return Layer({name.replace("-", "_"): value for name, value in flags.items()}, prefix="--", lax=True)


def environment_layer(schema: type[Settings], environ: Mapping[str, str], place: str = "in the environment") -> Layer:
    """Return the settings among environment variables.

    Variables of the other commands' settings are known and left out, so that one `.env` serves all commands. An empty
    variable sets nothing.

    Raises:
        ConfigError: A variable starts with QUILL_ and is no command's setting.
    """
    known = {name for command in COMMANDS for name in command.model_fields}
    values = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in PLACES:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in known:
            raise unknown_setting(name, Layer({}, place, ENVIRONMENT_PREFIX), known)
        if text and name in schema.model_fields:
            values[name] = text
    return Layer(values, place, ENVIRONMENT_PREFIX, lax=True)


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the QUILL_ lines of a `.env` file, without looking at any other; no file sets nothing.

    A line is `QUILL_NAME=value`, with `export` before it and quotes around the value if one likes. After an unquoted
    value, ` #` starts a comment.

    Raises:
        ConfigError: A QUILL_ line has no `=`, or the file cannot be read.
    """
    try:
        if not path.is_file():  # a folder of this name is a virtual environment; a pipe could be waited for without end
            return {}
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    lines = _decoded(content).splitlines()
    values = {}
    for number, line in enumerate(lines, start=1):
        assignment = line.strip().removeprefix("export ").lstrip()
        if not assignment.startswith(ENVIRONMENT_PREFIX):
            continue
        variable, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{path} line {number}: {assignment} has no value; write {assignment}=...")
        values[variable.strip()] = _unquote(text.strip())
    return values


def _decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8 or, as PowerShell's `>` writes it, in UTF-16, with its mark or without."""
    first = content[:2]
    if first in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return content.decode("utf-16", errors="replace")
    if 0 in first:
        return content.decode("utf-16-be" if first[0] == 0 else "utf-16-le", errors="replace")
    return content.decode("utf-8-sig", errors="replace")


def _written(value: object, *, as_python: bool) -> str:
    try:
        text = repr(value) if as_python else str(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists within lists without end
        return "..."
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _unquote(text: str) -> str:
    for quote in "\"'":
        if text.startswith(quote) and (end := text.find(quote, 1)) > 0:
            return text[1:end]
    return "" if text.startswith("#") else text.partition(" #")[0].rstrip()
