"""A command's settings as flags: made from the schema, in nanoGPT's spelling and the usual one."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter, Token
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, NameRenderer
from pydantic.fields import FieldInfo
from rich.console import Console, ConsoleOptions

from quillgpt.cli.completion import complete_model, complete_path, complete_preset, complete_words
from quillgpt.config.paths import at_home
from quillgpt.config.schema import COMMAND_SETTINGS, Settings, grouped_fields
from quillgpt.config.values import accepts_bool, expectations, spell_value
from quillgpt.errors import ConfigError

REPEATABLE = frozenset({"data"})
"""Settings whose flag can be given several times, with values joined by commas. Of other flags the last one counts."""

FREE_TEXT = frozenset({"start", "stop", "data", "val"})
"""Settings whose value may begin with a hyphen."""

ALSO = {"read_as": ("--as",)}
"""Other names of flags, whose settings cannot have them."""

LIKE_A_FLAG = re.compile(r"--[^\s]*")
"""A word that may be a flag; `-- Yes, she said` is not one."""

TRUTH_WORDS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off", "auto"})


def from_home(kind: Any, tokens: Sequence[Token]) -> Any:
    """Read a path from the command line; a leading `~` is the home folder."""
    place = at_home(tokens[0].value)
    return place if kind is str else Path(place)


PATH = Parameter(converter=from_home)
"""For an argument that is or may be a path."""


def model_argument(explanation: str = "") -> Parameter:
    """Return the argument MODEL of a command, whose help ends with `explanation`."""
    return Parameter(
        name="MODEL",
        converter=from_home,
        help="A run's folder (its best checkpoint), a checkpoint, a Hugging Face folder, nanoGPT's ckpt.pt, or the "
        "name of a model on the Hugging Face hub: gpt2, gpt2-medium, gpt2-large, gpt2-xl, OWNER/NAME."
        + (f" {explanation}" if explanation else ""),
        completer=complete_model,
    )


MODEL = model_argument()


def preset_argument(explanation: str) -> Parameter:
    """Return the argument PRESET of a command, whose help ends with `explanation`."""
    return Parameter(
        name="PRESET",
        converter=from_home,
        help=f"A preset (quill configs lists them), a .toml file, or a .py file of nanoGPT. {explanation}",
        completer=complete_preset,
    )


def switch(name: str, explanation: str, *, group: str = "The command", position: int = -1) -> Parameter:
    """Return a switch of a command that is not one of its settings.

    Args:
        name: The flag.
        explanation: The text for --help.
        group: Its heading in --help.
        position: The position of the heading among those of the settings, which count from 0.
    """
    return Parameter(
        name=name, negative=(), show_default=False, help=explanation, group=Group(group, sort_key=position)
    )


JSON_FLAG = switch("--json", "Print one JSON object for each result instead of words.")

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_flags(schema: type[Settings], *, leave_out: Iterable[str] = ()) -> Callable[[Command], Command]:
    """Replace a command's `**flags` by one documented flag for each setting of `schema`.

    The command receives the given flags as text. `quillgpt.config` parses them by the same rules as the environment
    and files.

    Args:
        schema: The settings.
        leave_out: Settings that the command does not take, or has parameters of its own for.
    """
    left_out = frozenset(leave_out)
    taken = schema.model_fields.keys() - left_out
    listed = {name for settings in COMMAND_SETTINGS.values() for name in settings.model_fields}
    assert listed >= schema.model_fields.keys(), f"{schema.__name__} has no entry in COMMAND_SETTINGS"

    def declare(command: Command) -> Command:
        @functools.wraps(command)
        def call(*positional: Any, **named: Any) -> Any:
            flags = {name: _joined(name, given) for name, given in named.items() if name in taken}
            return command(*positional, **(named | flags))

        signature = inspect.signature(command, eval_str=True)
        parameters = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        for position, (heading, fields) in enumerate(grouped_fields(schema).items()):
            group = Group(heading, sort_key=position, help_formatter=DefaultFormatter(column_specs=_columns))
            parameters += [_parameter(name, field, group) for name, field in fields.items() if name in taken]
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return declare


def join_switches(tokens: Iterable[str]) -> list[str]:
    """Write each switch as one token with its value: `--bias`, `--bias True` and `--no-bias` become `--bias=...`.

    The settings' types decide whether the word after `--compile` is its value or the next argument.

    Raises:
        ConfigError: A flag that takes any text is followed by a word that looks like a flag.
    """
    switches = {
        name
        for schema in COMMAND_SETTINGS.values()
        for name, field in schema.model_fields.items()
        if accepts_bool(field)
    }
    joined: list[str] = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        name = token.removeprefix("--").replace("-", "_")
        if token == "--":
            return [*joined, token, *waiting]
        if token.startswith("--") and name in FREE_TEXT and waiting:
            if LIKE_A_FLAG.fullmatch(waiting[0]):
                word = waiting[0][:40]
                raise ConfigError(f"{token} needs a value; if {word} is the value, write {token}={word}")
            joined += [token, waiting.pop(0)]
        elif token.startswith("--") and name in switches:
            value = waiting.pop(0) if waiting and waiting[0].lower() in TRUTH_WORDS else "true"
            joined.append(f"--{name}={value}")
        elif token.startswith("--no") and name.removeprefix("no_") in switches:
            joined.append(f"--{name.removeprefix('no_')}=false")
        else:
            joined.append(token)
    return joined


def _joined(name: str, given: list[str]) -> str:
    return ",".join(given) if name in REPEATABLE else given[-1]


def _columns(console: Console, options: ConsoleOptions, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:  # noqa: ARG001
    """Return the columns of --help; names are as wide as the longest setting needs at 80 characters."""
    width = math.ceil(console.width * 0.4)
    names = ColumnSpec(renderer=NameRenderer(max_width=width), style="cyclopts.name", max_width=width)
    return names, ColumnSpec(renderer=DescriptionRenderer(), overflow="fold")


def _parameter(name: str, field: FieldInfo, group: Group) -> inspect.Parameter:
    first, *_ = takes = expectations(field)
    is_choice = " " not in first and first != "text"
    metavar = "|".join(takes) if is_choice else "TEXT" if first == "text" else "N"
    notes = [] if is_choice or first == "text" else [" or ".join(takes)]
    if field.default is not None:
        notes.append(f"default: {spell_value(field.default)}")
    parameter = Parameter(
        name=(f"--{name}", *ALSO.get(name, ())),
        help=" ".join(filter(None, [field.description, f"[{'; '.join(notes)}]" if notes else ""])),
        group=group,
        negative=(),
        metavar=metavar,
        allow_leading_hyphen=name in FREE_TEXT,
        completer=complete_words(takes) if is_choice else complete_path if first == "text" else None,
    )
    annotation = Annotated[list[str] | None, parameter]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
