"""Layers of settings: the values from every place that can set some. A later layer overrides earlier ones."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic.fields import FieldInfo

from quillgpt.config.foreign import meant_setting
from quillgpt.config.schema import COMMAND_SETTINGS, Settings
from quillgpt.config.values import read_value
from quillgpt.console import QUIET_VARIABLE
from quillgpt.errors import ConfigError

ENVIRONMENT_PREFIX = "QUILL_"
FOLDERS = frozenset({"QUILL_HOME", "QUILL_MIRROR"})
"""Variables that say where files, also code, are taken from; a `.env` must not set them."""

NOT_SETTINGS = FOLDERS | {QUIET_VARIABLE}
"""Environment variables of Quill that are no settings."""

SETS_A_SETTING = re.compile(rf"^\s*(export\s+)?{ENVIRONMENT_PREFIX}", re.MULTILINE)
BACKSLASH = "\ue000"
"""Stands for a backslash while python-dotenv reads a file; a character that no text has."""

LARGEST_INTEGER_BITS = 1024
LONGEST_SHOWN = 200
"""Characters of a value that are shown in a message."""


@dataclass(frozen=True)
class Layer:
    """Values from one place, and how that place spells and types them.

    Attributes:
        values: Values by the names of settings.
        place: The place, as part of a message: `in run.toml`; empty for flags.
        prefix: The prefix of names in this place: `--`, `QUILL_`, or nothing.
        lax: Whether types are lax, since the place has only text or Python's numbers; see `read_value`.
        shipped: Whether the values are those of a preset, so that the user did not choose them one by one.
    """

    values: Mapping[str, object]
    place: str = ""
    prefix: str = ""
    lax: bool = False
    shipped: bool = False

    @property
    def name(self) -> str:
        """A short name of the place: `flags`, `environment`, `preset demo`, `run.toml`."""
        return self.place.removeprefix("in ").removeprefix("the ") or "flags"

    def spell(self, name: str) -> str:
        """Return a setting's name as this place spells it."""
        shown = _written(name, as_python=not name)
        return self.prefix + (shown.upper() if self.prefix == ENVIRONMENT_PREFIX else shown)

    def describe(self, name: str, value: object) -> str:
        """Return `name = value in place`, as it is written there."""
        equals = "=" if self.prefix else " = "
        written = _written(value, as_python=not self.prefix)
        return " ".join(filter(None, [f"{self.spell(name)}{equals}{written}", self.place]))


def merge_layers(schema: type[Settings], layers: Iterable[Layer]) -> dict[str, object]:
    """Check every layer, and return the value of the last layer for each name.

    Raises:
        ConfigError: A name is unknown or a value does not fit, even if a later layer overrides it.
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
    """Return the error for a name that is no setting, with the setting that was probably meant."""
    meant = meant_setting(name, known)
    subject = " ".join(filter(None, [layer.spell(name), layer.place]))
    return ConfigError(f"{subject} is unknown" + (f"; did you mean {layer.spell(meant)}?" if meant else ""))


def flag_layer(flags: Mapping[str, object]) -> Layer:
    """Return the layer of command-line flags."""
    return Layer({name.replace("-", "_"): value for name, value in flags.items()}, prefix="--", lax=True)


def environment_layer(schema: type[Settings], environ: Mapping[str, str], place: str = "in the environment") -> Layer:
    """Return the layer of the environment variables that are settings.

    Settings of other commands are left out, so that one `.env` serves all commands. So is a value that only another
    command takes for a setting of the same name, such as `engine`. An empty variable sets nothing.

    Raises:
        ConfigError: A variable starts with QUILL_, but is a setting of no command.
    """
    known = {name for schema in COMMAND_SETTINGS.values() for name in schema.model_fields}
    values = {}
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in NOT_SETTINGS:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name not in known:
            raise unknown_setting(name, Layer({}, place, ENVIRONMENT_PREFIX), known)
        if text and name in schema.model_fields and not _is_of_another_command(name, text, schema):
            values[name] = text
    return Layer(values, place, ENVIRONMENT_PREFIX, lax=True)


def _is_of_another_command(name: str, text: str, schema: type[Settings]) -> bool:
    """Return whether a value fits a setting of this name, but not that of `schema`."""
    same_name = [other.model_fields[name] for other in COMMAND_SETTINGS.values() if name in other.model_fields]
    return not _fits(schema.model_fields[name], text) and any(_fits(field, text) for field in same_name)


def _fits(field: FieldInfo, text: str) -> bool:
    try:
        read_value(field, text, lax=True)
    except ValueError:
        return False
    return True


def read_dotenv(path: Path) -> dict[str, str]:
    """Return the QUILL_ variables of a `.env` file, as python-dotenv reads it; a missing file sets nothing.

    There are three differences. A backslash stands for itself also in quotes, as in `"C:\\new"`. `${NAME}` is not
    replaced. An unquoted value that begins with # is empty.

    Raises:
        ConfigError: A QUILL_ line has no `=` or open quotes, or the file cannot be read.
    """
    try:
        if not path.is_file():  # a folder of this name is a virtual environment; a pipe could be waited for without end
            return {}
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None

    from dotenv.parser import parse_stream

    values = {}
    for binding in parse_stream(io.StringIO(_decoded(content).replace("\\", BACKSLASH))):
        text = binding.original.string
        statement = text.lstrip()
        line = binding.original.line + text.removesuffix(statement).count("\n")
        if binding.error and SETS_A_SETTING.search(text):
            raise ConfigError(
                f"{path} line {line} cannot be read; write {ENVIRONMENT_PREFIX}NAME=value, with quotes around the "
                "whole value or none"
            )
        if binding.key is None or not binding.key.startswith(ENVIRONMENT_PREFIX):
            continue
        if binding.value is None:
            raise ConfigError(f"{path} line {line}: {binding.key} has no value; write {binding.key}=...")
        is_empty = statement.partition("=")[2].lstrip().startswith("#")
        values[binding.key] = "" if is_empty else binding.value.replace(BACKSLASH, "\\")
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
