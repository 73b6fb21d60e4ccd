"""JSON files as typed records: what is not as it should be is refused by name, in one line."""

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
"""Far above any file of ours; what is parsed takes many times as much memory."""

DEEPEST = 100
"""Objects and lists inside each other; what is deeper ends programs that walk through it."""

LONGEST_NAME = 100
"""Characters of the name of a place in a file that are shown."""

OF_NAMES = ("missing", "extra_forbidden")
"""Complaints about names, not about a value."""

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
"""What pydantic's commonest complaints ask for, in the words of JSON."""


class Record(BaseModel):
    """What a JSON file of ours says: strict types, finite numbers, no unknown keys, no change after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def read_record(
    path: Path,
    schema: type[Content],
    error: type[UserError],
    *,
    mend: str,
    largest_bytes: int = LARGEST_BYTES,
) -> Content:
    """Return what a JSON file says.

    Args:
        path: The file.
        schema: What it should say: a `Record`, or any other type that pydantic can check, such as `dict[str, int]`.
        error: The kind of error to raise.
        mend: What to do about a damaged file, for the end of the message.
        largest_bytes: A larger file is not read.

    Raises:
        UserError: Of the kind `error`: the file is missing, no JSON, or says something else.
    """
    return check_record(read_json(path, error, mend=mend, largest_bytes=largest_bytes), schema, error, path, mend=mend)


def read_json(path: Path, error: type[UserError], *, mend: str, largest_bytes: int = LARGEST_BYTES) -> Any:
    """Return the parsed content of a JSON file, whatever it is; arguments and errors are those of `read_record`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{path} is not a file, expected JSON; {mend}")
        if found.st_size > largest_bytes:
            raise error(
                f"{path} has {found.st_size:,} bytes, which is no file of this kind (at most {largest_bytes:,}); {mend}"
            )
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{path} is missing; {mend}") from None
    except (OSError, ValueError) as failure:  # also a name that no file can have
        raise error(f"{path} cannot be read ({getattr(failure, 'strerror', None) or failure}); {mend}") from None
    return parse_json(content, error, path, mend=mend)


def parse_json(content: bytes, error: type[UserError], where: Path, *, mend: str) -> Any:
    """Return the parsed content of JSON that was read already; `where` names it in messages."""
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
        reason = "it holds a number of thousands of digits"
    except RecursionError:
        reason = f"its lists and objects are more than {DEEPEST} deep in each other"
    else:
        return parsed
    raise error(f"{where} is damaged: {reason}; {mend}")


def check_record(content: object, schema: type[Content], error: type[UserError], where: Path, *, mend: str) -> Content:
    """Return parsed JSON as what it should be; arguments and errors are those of `read_record`."""
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
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _describe(failure: ValidationError, content: object) -> str:
    """Say what the first thing is that is wrong, and what each kind that it could have been asks for."""
    problems = failure.errors(include_url=False)
    first = problems[0]
    place = _place(content, first["loc"])
    if first["type"] == "missing":
        return f"{_name([*place, first['loc'][-1]])} is missing"
    if first["type"] == "extra_forbidden":
        return f"{_name(place)} is not one of its names"
    expected = dict.fromkeys(
        _expected(each) for each in problems if each["type"] not in OF_NAMES and _place(content, each["loc"]) == place
    )
    return f"{_name(place)} is {shorten(first['input'])}, expected {' or '.join(expected)}"


def _expected(problem: ErrorDetails) -> str:
    words = EXPECTED.get(problem["type"])
    if words is None:
        return problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return words.format(**problem.get("ctx", {}))


def _place(content: Any, location: Sequence[int | str]) -> list[int | str]:
    """Return where in the content a problem is: its location, without the names of the kinds of a union."""
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
    return (name if len(name) <= LONGEST_NAME else shorten(name, LONGEST_NAME)) or "the whole of it"
