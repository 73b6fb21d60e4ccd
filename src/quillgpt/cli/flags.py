"""A command's settings as flags: made from the schema, spelled in nanoGPT's way and in the usual one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from quillgpt.config.layers import COMMANDS
from quillgpt.config.schema import Settings, grouped_fields
from quillgpt.config.values import accepts_bool, expectations, spell

REPEATABLE = frozenset({"data"})
"""Settings whose flag can be given several times; the values are joined by commas."""

FREE_TEXT = frozenset({"start", "stop", "data"})
"""Settings whose value may begin with a hyphen."""

TRUTH_WORDS = frozenset({"true", "false", "1", "0", "yes", "no", "on", "off", "auto"})

MODEL_HELP = "A run's folder (its best checkpoint is taken), a checkpoint, or a Hugging Face folder."

JSON_FLAG = Parameter(
    name="--json", negative=(), show_default=False, help="Print one JSON object for each result instead of words."
)

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_flags(schema: type[Settings]) -> Callable[[Command], Command]:
    """Replace a command's `**flags` by one documented flag for each setting of `schema`.

    The command receives the flags that were given, as text; reading them is the work of `quillgpt.config`, which
    reads the environment and files by the same rules.
    """

    def declare(command: Command) -> Command:
        signature = inspect.signature(command)
        parameters = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        for position, (heading, fields) in enumerate(grouped_fields(schema).items()):
            group = Group(heading, sort_key=position)
            parameters += [_parameter(name, field, group) for name, field in fields.items()]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return declare


def join_switches(tokens: Iterable[str]) -> list[str]:
    """Write each switch as one token with its value: `--bias`, `--bias True` and `--no-bias` as `--bias=...`.

    Which word after `--compile` is its value, and which is the next argument, only the settings' types can tell.
    """
    switches = {name for schema in COMMANDS for name, field in schema.model_fields.items() if accepts_bool(field)}
    joined: list[str] = []
    waiting = list(tokens)
    while waiting:
        token = waiting.pop(0)
        name = token.removeprefix("--").replace("-", "_")
        if token == "--":
            return [*joined, token, *waiting]
        if token.startswith("--") and name in switches:
            value = waiting.pop(0) if waiting and waiting[0].lower() in TRUTH_WORDS else "true"
            joined.append(f"--{name}={value}")
        elif token.startswith("--no") and name.removeprefix("no_") in switches:
            joined.append(f"--{name.removeprefix('no_')}=false")
        else:
            joined.append(token)
    return joined


def _parameter(name: str, field: FieldInfo, group: Group) -> inspect.Parameter:
    first, *_ = takes = expectations(field)
    is_choice = " " not in first and first != "text"
    metavar = "|".join(takes) if is_choice else "TEXT" if first == "text" else "N"
    notes = [] if is_choice or first == "text" else [" or ".join(takes)]
    if field.default is not None:
        notes.append(f"default: {spell(field.default)}")
    parameter = Parameter(
        name=f"--{name}",
        help=" ".join(filter(None, [field.description, f"[{'; '.join(notes)}]" if notes else ""])),
        group=group,
        negative=(),
        metavar=metavar,
        allow_leading_hyphen=name in FREE_TEXT,
    )
    kind = list[str] if name in REPEATABLE else str
    annotation = Annotated[kind | None, parameter]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
