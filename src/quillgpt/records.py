"""JSON files as typed records; errors name the wrong value in one line."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from quillgpt.errors import UserError, check_is_no_pointer, shorten

LARGEST_BYTES = 64 << 20
"""Far larger than Quill's files; the parsed content takes many times as much memory."""

DEEPEST = 100
"""Nested objects and lists; deeper ones exceed the recursion limit of programs that walk through them."""

LONGEST_NAME = 100
"""Characters of a value's path in a file that are shown."""

OF_NAMES = ("missing", "extra_forbidden")
"""Kinds of pydantic's errors that are about names, not values."""

Content = TypeVar("Content")

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "none_required": "null",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_pattern_mismatch": "text that fits {pattern}",
}
"""The expected value for the most frequent kinds of pydantic's errors, in the words of JSON."""


class Record(BaseModel):
    """The content of one of Quill's JSON files: strict types, finite numbers, no unknown keys, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_record(
    path: Path,
    schema: type[Content],
    error: type[UserError],
    *,
    mend: str,
    largest_bytes: int = LARGEST_BYTES,
) -> Content:
    """Read a JSON file and check its content.

    Args:
        path: The file.
        schema: The type of the content: a `Record`, or any type that pydantic can check, such as `dict[str, int]`.
        error: The kind of error to raise.
        mend: What to do about a damaged file, for the end of the message.
        largest_bytes: A larger file is not read.

    Raises:
        UserError: Of the kind `error`: the file is missing, is no JSON, or has another content.
    """
    return check_record(read_json(path, error, mend=mend, largest_bytes=largest_bytes), schema, error, path, mend=mend)


def read_json(path: Path, error: type[UserError], *, mend: str, largest_bytes: int = LARGEST_BYTES) -> Any:
    """Read a JSON file without checking its content; arguments and errors are those of `read_record`."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise error(f"{path} is not a file, expected JSON; {mend}")
        if info.st_size > largest_bytes:
            raise error(
                f"{path} has {info.st_size:,} bytes, too many for a file of this kind "
                f"(at most {largest_bytes:,}); {mend}"
            )
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path} is missing; {mend}") from None
    except (OSError, ValueError) as failure:  # ValueError: a name that no file can have
        raise error(f"{path} cannot be read ({getattr(failure, 'strerror', None) or failure}); {mend}") from None
    return parse_json(content, error, path, mend=mend)


def parse_json(content: bytes, error: type[UserError], where: Path, *, mend: str) -> Any:
    """Parse JSON; `where` names it in messages, other arguments and errors are those of `read_record`."""
    check_is_no_pointer(content, where, error)
    try:
        parsed = json.loads(content.decode("utf-8-sig"))  # editors of Windows write a byte-order mark
        if _is_deep(parsed):
            raise RecursionError
    except UnicodeDecodeError as failure:
        reason = f"byte {failure.start:,} is not UTF-8"
    except json.JSONDecodeError as failure:
        reason = f"no JSON ({failure.msg} at line {failure.lineno}, column {failure.colno})"
    except ValueError:
        reason = "it has a number of thousands of digits"
    except RecursionError:
        reason = f"its lists and objects are nested more than {DEEPEST} deep"
    else:
        return parsed
    raise error(f"{where} is damaged: {reason}; {mend}")


def check_record(content: object, schema: type[Content], error: type[UserError], where: Path, *, mend: str) -> Content:
    """Check parsed JSON and return it as `schema`; arguments and errors are those of `read_record`."""
    has_its_own = isinstance(schema, type) and (issubclass(schema, BaseModel) or is_dataclass(schema))
    of_a_plain_type = None if has_its_own else Record.model_config
    adapter: TypeAdapter[Content] = TypeAdapter(schema, config=of_a_plain_type)
    try:
        return adapter.validate_python(content)
    except ValidationError as failure:
        reason = _describe(failure, content)
    raise error(f"{where} is damaged: {reason}; {mend}")


def _is_deep(parsed: object) -> bool:
    level = [parsed]
    for _ in range(DEEPEST + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _describe(failure: ValidationError, content: object) -> str:
    """Return the first error, with the expected values of all kinds that its place allows."""
    problems = failure.errors(include_url=False)
    first = problems[0]
    place = _place(content, first["loc"])
    if first["type"] == "missing":
        return f"{_name([*place, first['loc'][-1]])} is missing"
    if first["type"] == "extra_forbidden":
        return f"{_name(place)} is an unknown name"
    expected = dict.fromkeys(
        _expected(problem)
        for problem in problems
        if problem["type"] not in OF_NAMES and _place(content, problem["loc"]) == place
    )
    return f"{_name(place)} is {shorten(first['input'])}, expected {' or '.join(expected)}"


def _expected(problem: ErrorDetails) -> str:
    words = EXPECTED.get(problem["type"])
    if words is None:
        return problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return words.format(**problem.get("ctx", {}))


def _place(content: Any, location: Sequence[int | str]) -> list[int | str]:
    """Return the path of an error in the content: its location, without the names of a union's members."""
    place: list[int | str] = []
    for part in location:
        try:
            content = content[part]
        except (LookupError, TypeError):
            continue
        place.append(part)
    return place


def _name(place: Sequence[int | str]) -> str:
    name = ".".join(part if isinstance(part, str) and part.isprintable() else repr(part) for part in place)
    return (name if len(name) <= LONGEST_NAME else shorten(name, LONGEST_NAME)) or "the content"
