"""A task's file as data: what it says, and which code it would run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lm_eval
import yaml

from quillgpt.errors import ConfigError, cut

FUNCTION: Final = "!function"
"""The tag with which a task's file names a Python function."""

LM_EVAL: Final = Path(lm_eval.__file__).resolve().parent


@dataclass(frozen=True)
class Function:
    """A Python function that a file names.

    Attributes:
        name: Its module and name.
        file: The file that names it.
        line: Number of the line, from 1.
    """

    name: str
    file: Path
    line: int

    @property
    def is_of_lm_eval(self) -> bool:
        """Whether the file belongs to the installed package."""
        return self.file.is_relative_to(LM_EVAL)


def read_task_file(path: Path) -> Any:
    """Return the content of a task's file with all that it includes; functions that it names are not run.

    Raises:
        ConfigError: The file or one that it includes cannot be read, or is no YAML.
    """
    return _read(path.expanduser().resolve(), ())


def _read(path: Path, including: tuple[Path, ...]) -> Any:
    if path in including:
        raise ConfigError(f"the task file {path} includes itself; remove one of its lines `include`")

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def read_function(_: Any, node: yaml.Node) -> Function:
        return Function(str(node.value), path, node.start_mark.line + 1)

    Loader.add_constructor(FUNCTION, read_function)
    try:
        with path.open("rb") as file:
            content = yaml.load(file, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigError(f"{place}: the task file is no YAML ({cut(reason)}); mend it or move it away") from None
    except (OSError, ValueError, RecursionError) as error:
        by = f", which {including[-1]} includes," if including else ""
        reason = getattr(error, "strerror", None) or cut(" ".join(str(error).split()))
        raise ConfigError(f"the task file {path}{by} cannot be read: {reason}") from None
    if not isinstance(content, dict) or "include" not in content:
        return content
    included = content.pop("include")
    merged: dict[Any, Any] = {}
    for name in included if isinstance(included, list) else [included]:
        other = _read((path.parent / str(name)).resolve(), (*including, path))
        merged |= other if isinstance(other, dict) else {}
    return merged | content


def named_functions(content: Any) -> Iterator[Function]:
    """Yield the functions that the content of a task's file names."""
    for value in _values(content):
        if isinstance(value, Function):
            yield value


def dataset_paths(content: Any) -> Iterator[str]:
    """Yield what the content of a task's file names as data sets."""
    for value in _values(content):
        if isinstance(value, dict) and isinstance(path := value.get("dataset_path"), str):
            yield path


def _values(content: Any) -> Iterator[Any]:
    """Yield a value and all that is in it; what YAML's anchors repeat comes once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
